"""What an erasure asks for before it is done."""

from __future__ import annotations

from typing import Any

from django import forms

from panel.accounts.models import User
from panel.privacy import mentions
from panel.privacy.persons import Person

_OFF = {"autocomplete": "off", "spellcheck": "false", "autocapitalize": "off"}


class EraseForm(forms.Form):
    typed = forms.CharField(max_length=254, widget=forms.TextInput(attrs=_OFF))
    reason = forms.CharField(
        label="Why", max_length=300, widget=forms.TextInput(attrs={"autocomplete": "off"}),
        help_text="It stands on the receipt and in the audit for good, so name nobody: “asked for it by letter” is enough.",
    )  # fmt: skip
    names = forms.BooleanField(
        label="Also take the name out of text that others wrote", required=False, initial=True,
        help_text="The address is always taken out. Leave this off when the name is also a word that means something else here.",
    )  # fmt: skip

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.user = user
        self.fields["typed"].label = f"Type {user} to confirm"
        if not user.name.strip():
            del self.fields["names"]

    def clean_typed(self) -> str:
        typed = str(self.cleaned_data["typed"]).strip()
        if typed.casefold() not in {self.user.email.casefold(), self.user.name.strip().casefold()}:
            raise forms.ValidationError(f"This is not {self.user}. Nothing was done.")
        return typed

    def clean_reason(self) -> str:
        reason = str(self.cleaned_data["reason"]).strip()
        if mentions.says(reason, Person.of(self.user).names):
            raise forms.ValidationError(
                "The reason names them, and it is kept for good. Say it without the name."
            )
        return reason
