"""`jackpot-sim doctor`: the packages, devices and settings of this machine beside what this project needs.

It imports no package but `packaging` itself, and tries all others in a process of their own, so that it has an answer
where one of them is missing, damaged, or ends the process that imports it.
"""
