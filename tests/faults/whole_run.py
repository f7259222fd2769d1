"""`make faults`: some hundreds of faults in a tiny study, one line each, and a table of what happened.

    python tests/faults/whole_run.py STUDY [--faults 200] [--seed 0] [--into FOLDER]
"""
import argparse
import json
import sys
import tempfile
import shutil
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
import numpy as np
import torch

from campaign import COMPUTING, chain, kinds_in_turn, undisturbed
from injection import mounted, stages_of
import os
torch.set_num_threads(1)
import diffusers, pandas, pyarrow.parquet
import flashdiff.study.comparison, flashdiff.training.prior, flashdiff.training.severity, flashdiff.training.model_card
from flashdiff.training import loop
from dataclasses import fields

def often():
    names=[f.name for f in fields(loop.Recipe) if f.default is not f.default_factory and f.default.__class__.__name__!="_MISSING_TYPE"]
    d=list(loop.Recipe.__init__.__defaults__); d[names.index("checkpoint_every")]=4
    loop.Recipe.__init__.__defaults__=tuple(d)
    assert loop.Recipe(1,1,1.).checkpoint_every==4
often()
p=argparse.ArgumentParser(); p.add_argument("study",type=Path); p.add_argument("--faults",type=int,default=200); p.add_argument("--seed",type=int,default=0); p.add_argument("--only")
o=p.parse_args()
from diffusers import DDPMScheduler, AutoencoderKL, UNet2DModel
rng=np.random.default_rng(o.seed)
with tempfile.TemporaryDirectory() as t, mounted(Path(t)) as small:
    repo=Path(t)/"repo"
    shutil.copytree(o.study, repo/"studies"/"faults", ignore=shutil.ignore_patterns("notebooks_html"))
    src=o.study.parents[1]
    for n in ("notebooks","tests/data/images"):
        shutil.copytree(src/n, repo/n)
    folder=repo/"studies/faults"
    st=stages_of(folder)
    w=undisturbed(folder,st)
    st={n:s for n,s in st.items() if s.kind in COMPUTING and (not o.only or s.kind in o.only.split(","))}
    for s in st.values():
        out=w.measure(s); print(s.name, f"{out.seconds:.1f} s", w.writes[s.name], "writes", flush=True)
    n=0; k=kinds_in_turn(rng, small); names=list(st); i=0
    while n<o.faults:
        s=st[names[i%len(names)]]; i+=1
        t0=time.time()
        trial=chain(w,s,next(k),rng); n+=len(trial.faults)
        print(n, s.name, "OK" if trial.ok else "WRONG", trial.verdict, f"{time.time()-t0:.0f}s", flush=True)
        for x in trial.said: print("     ",x[:400], flush=True)
