from __future__ import annotations
import numpy as np
from jackpot_sim.diagnose.causes.columns import misaligned_sequences
from jackpot_sim.diagnose.causes.view import View
from jackpot_sim.diagnose.evidence import Evidence
from jackpot_sim.readers.left_out import LeftOut, Reason


def evidence_of(t):
    x,y=t.actor_log_probs,t.policy_log_probs
    lo=LeftOut()
    nan=np.isnan(x)|np.isnan(y); one=(x==1)|(y==1); 
    allz=(x==0).all() or (y==0).all()
    zero=((x==0)&(y<-.1))|((y==0)&(x<-.1))
    for r,m in ((Reason.MISSING,nan),(Reason.ONE,one)): lo.add(r,int(m.sum()))
    if allz: lo.add(Reason.ALL_ZERO,len(x)); keep=np.zeros(len(x),bool)
    else:
        lo.add(Reason.ZERO,int(zero.sum())); keep=~(nan|one|zero)
    s=t.keep(keep)
    sh={}
    if s is not None:
        m=misaligned_sequences(View(s))
        if m.any(): sh={1:int(s.lengths[m].sum())}
    return Evidence(sample=s,left_out=lo,read=len(x),metrics={},bypass=bool((x==y).all()),shifted=sh)
