"""The field for money: exact nano-dollars in the database, `Decimal` USD in Python."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from django import forms
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from billing.money import MAX_USD, BadAmount, from_nano, quantize, to_nano

if TYPE_CHECKING:
    # To a type checker it is a field of Decimal, optional where null=True.
    _Set = TypeVar("_Set", contravariant=True)
    _Get = TypeVar("_Get", covariant=True)

    class _Integer(models.DecimalField[_Set, _Get]): ...
else:
    _Set = _Get = None

    class _Integer(models.BigIntegerField):
        def __class_getitem__(cls, _types: Any) -> type:
            return cls


class UsdField(_Integer[_Set, _Get]):
    """USD as Decimal, stored as whole nano-dollars. `Sum` over it is exact and comes back as USD.

    Forms and `full_clean` refuse what is negative, unless `signed`, and what is beyond `MAX_USD`.
    """

    def __init__(self, *args: Any, signed: bool = False, **kwargs: Any) -> None:
        self.signed = signed
        super().__init__(*args, **kwargs)

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        return name, path, args, {**kwargs, "signed": True} if self.signed else kwargs

    @cached_property
    def validators(self) -> list[Callable[..., None]]:
        # Not the integer's own: those would compare dollars with the range of nano-dollars.
        lowest = -MAX_USD if self.signed else Decimal(0)
        negative = "An amount of money cannot be negative."
        return [
            MinValueValidator(lowest, None if self.signed else negative),
            MaxValueValidator(MAX_USD, f"An amount of money cannot be more than ${MAX_USD:,}."),
        ]

    def get_prep_value(self, value: Any) -> Any:
        return None if value is None else to_nano(Decimal(value))

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Decimal | None:
        return None if value is None else from_nano(int(value))

    def to_python(self, value: Any) -> Any:
        if value in (None, ""):
            return None
        try:
            usd = Decimal(value)
            to_nano(usd)
            return quantize(usd)
        except BadAmount as error:
            raise ValidationError(str(error)) from None
        except (ArithmeticError, TypeError, ValueError):
            raise ValidationError("An amount of money must be a number.") from None

    def formfield(self, *args: Any, **kwargs: Any) -> Any:
        given = {
            "form_class": forms.DecimalField,
            "decimal_places": 9,
            "validators": self.validators,
            **kwargs,
        }
        return models.Field.formfield(self, *args, **given)
