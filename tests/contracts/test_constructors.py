"""What has to be told many things to begin with is given whole objects instead."""

import importlib
import inspect
import pkgutil

import pydantic

import denseteacher

MOST = 7


def own_classes():
    """Every class of the package that has a constructor of its own: not values, whose parameters are their fields."""
    for module in pkgutil.walk_packages(denseteacher.__path__, "denseteacher."):
        if module.name.endswith("__main__"):
            continue
        for _, one in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            fields = issubclass(one, pydantic.BaseModel) or hasattr(one, "_fields")
            if one.__module__ == module.name and not fields and "__init__" in vars(one):
                yield one


def test_a_constructor_has_few_parameters():
    counts = {one: len(inspect.signature(one.__init__).parameters) - 1 for one in own_classes()}
    assert len(counts) > 40
    assert {one.__name__: count for one, count in counts.items() if count > MOST} == {}
