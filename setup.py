"""Names the packages. The folder of this file is the package ``limner``, a layout that pyproject.toml cannot discover."""

from setuptools import find_packages, setup

# the script's name keeps this file, which lies in the package's folder, out of the wheel
setup(script_name="setup.py", packages=["limner", *(f"limner.{name}" for name in find_packages())])
