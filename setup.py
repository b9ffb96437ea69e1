"""A wheel, for engineers, holds stn_helpers alone; an editable install of a checkout sees the studies too."""

import sys

from setuptools import find_packages, setup

setup(packages=find_packages(include=["stn_helpers", "stn_helpers.*", *["studies"] * ("editable_wheel" in sys.argv)]))
