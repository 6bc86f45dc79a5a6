import pytest

from ft_dagster.errors import UserError
from ft_dagster.spec import VariantKey


def test_a_key_has_a_tenant_and_a_variant() -> None:
    assert VariantKey.parse("acme.support-2") == ("acme", "support-2")
    assert str(VariantKey("acme", "support")) == "acme.support"


@pytest.mark.parametrize(
    "text",
    ["", "acme", "../x", "acme.", ".support", "Acme.support", "acme.support.x", "a|b.c", "-a.b", "a-.b",
     "a.b c",
     "x" * 300, "a" * 31 + ".b", "acme.süpport", "acme.support\n"],
)  # fmt: skip
def test_anything_else_is_refused_with_the_rule(text: str) -> None:
    with pytest.raises(UserError, match="not a variant key") as error:
        VariantKey.parse(text)
    assert "acme.support" in error.value.fix


def test_the_longest_key_fits_a_dagster_tag() -> None:
    key = VariantKey.parse("a" * 30 + "." + "b" * 30)
    assert len(str(key)) == 61
