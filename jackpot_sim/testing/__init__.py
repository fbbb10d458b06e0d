"""The contract tests that every correction of this package passes, for the author of another one.

>>> from jackpot_sim import estimators, testing
>>> testing.check_correction(estimators.get("tis", clip=1.5))

With pytest, a test for each contract of each correction:

    @pytest.mark.parametrize("contract", testing.CONTRACTS)
    @pytest.mark.parametrize("correction", [MyMask(), MyMask(bound=0.1)])
    def test_my_mask(correction, contract):
        assert testing.breach(contract, correction) is None
"""

from jackpot_sim.testing import contracts, figures, needs, referee, tokens
from jackpot_sim.testing.checking import CONTRACTS, Contract, breach, check_correction

__all__ = ["CONTRACTS", "Contract", "breach", "check_correction", "contracts", "figures", "needs", "referee", "tokens"]
