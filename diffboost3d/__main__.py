"""`python -m diffboost3d` is the `diffboost3d` command (handy with `accelerate launch -m diffboost3d ...`)."""

from diffboost3d.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
