import datetime
from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.launch.inventory import Device, Inventory
from ft_dagster.planning.hardware.catalogue import Catalogue, Hardware, load_catalogue
from tests.present import present

CATALOGUE = load_catalogue()
ASKED_FOR = (
    "RTX3090", "RTX4090", "L4", "L40S", "A10", "A100-40GB", "A100-80GB", "H100-80GB", "H200-141GB", "B200",
    "V100-32GB", "T4",
)  # fmt: skip


def own(tmp_path: Path, text: str) -> Catalogue:
    (tmp_path / "gpus.yaml").write_text(text)
    return load_catalogue(tmp_path)


@pytest.mark.parametrize("name", ASKED_FOR)
def test_each_card_has_its_figures_with_date_and_source(name: str) -> None:
    card = CATALOGUE.card(name)
    assert card.name == name
    assert 10e9 < card.memory_bytes < 200e9
    assert card.source
    assert present(card.usd_per_hour) > 0
    price = present(card.price)
    assert price.source
    assert datetime.date(2026, 1, 1) <= price.date


def test_a_cards_size_is_what_its_driver_reports_and_units_are_named() -> None:
    card = CATALOGUE.card("A100-80GB")
    assert card.memory_bytes == 85_899_345_920
    assert "85.9 GB (80.0 GiB) by its driver, sold as 80 GB" in card.describe()
    assert "85.5 GB (79.6 GiB)" in CATALOGUE.card("H100").describe()


@pytest.mark.parametrize(("name", "peak"), [("V100-32GB", 15.7e12), ("T4", 8.1e12)])
def test_a_card_without_bf16_says_so_and_trains_in_fp32(name: str, peak: float) -> None:
    card = CATALOGUE.card(name)
    assert card.bf16_tflops is None
    assert card.peak_flops == peak
    assert "no bf16 arithmetic" in card.describe()
    assert CATALOGUE.gpus(name).bf16 is False


@pytest.mark.parametrize(
    ("text", "count", "name"),
    [
        ("2xA100-80GB", 2, "A100-80GB"),
        ("A100-80GB", 1, "A100-80GB"),
        ("8xH100", 8, "H100-80GB"),
        ("8xH100-SXM", 8, "H100-80GB"),
        ("2xH100 PCIe", 2, "H100-PCIe"),
        ("2xH100-NVL", 2, "H100-NVL"),
        ("8xH200", 8, "H200-141GB"),
        ("4xH200-NVL", 4, "H200-NVL"),
        ("4 x rtx 3090", 4, "RTX3090"),
        ("1×NVIDIA L4", 1, "L4"),
    ],
)
def test_gpus_are_written_as_count_and_card(text: str, count: int, name: str) -> None:
    hardware = CATALOGUE.gpus(text)
    assert (hardware.count, hardware.name) == (count, name)
    assert hardware.memory_bytes == CATALOGUE.card(name).memory_bytes


def test_which_form_a_kinds_name_alone_means_is_said() -> None:
    assert str(CATALOGUE.gpus("8xH100")) == "8 x H100-80GB (SXM) of 85.5 GB"
    assert CATALOGUE.card("H100").describe().startswith("H100-80GB (SXM): ")
    assert str(CATALOGUE.gpus("H100-PCIe")) == "1 x H100-PCIe of 85.5 GB"


def test_forms_of_a_kind_differ_in_what_they_compute_and_hold() -> None:
    forms = [CATALOGUE.card(f"H100-{form}") for form in ("SXM", "PCIe", "NVL")]
    assert [card.peak_flops for card in forms] == [989e12, 756e12, 835e12]
    assert [card.memory_mib for card in forms] == [81559, 81559, 95830]


def test_a_projects_own_card_goes_before_another_name_of_a_known_one(tmp_path: Path) -> None:
    text = "cards: {H100: {memory_mib: 70000, box: 70 GB, bf16_tflops: 700, source: our own}}"
    assert own(tmp_path, text).card("h100").memory_mib == 70000


@pytest.mark.parametrize("text", ["0xA100-80GB", "-2xA100-80GB", "1.5xH100"])
def test_a_count_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="not a number of GPUs") as error:
        CATALOGUE.gpus(text)
    assert (error.value.field, error.value.value) == ("gpus", text)


def test_hardware_of_no_device_is_refused() -> None:
    with pytest.raises(UserError, match="needs a GPU"):
        Hardware("gpu", 0, "A100-80GB")


@pytest.mark.parametrize(
    ("name", "nearest"), [("A100-60GB", "A100-80GB"), ("RTX4080", "RTX4090"), ("H20", "H200")]
)
def test_an_unknown_card_names_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UserError, match="no such GPU") as error:
        CATALOGUE.gpus(f"2x{name}")
    assert nearest in error.value.fix.split("Known:")[0]
    assert "gpus.yaml" in error.value.fix


def test_a_name_of_two_cards_asks_which() -> None:
    with pytest.raises(UserError, match="more than one") as error:
        CATALOGUE.gpus("2xA100")
    assert "A100-40GB or A100-80GB" in error.value.fix


@pytest.mark.parametrize("text", ["", "2x", "80"])
def test_what_is_no_gpu_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="not GPUs"):
        CATALOGUE.gpus(text)


def test_a_project_overrides_a_price_and_keeps_the_rest(tmp_path: Path) -> None:
    card = own(tmp_path, "cards: {A100-80GB: {usd_per_hour: 1.5}}").card("A100-80GB")
    assert card.usd_per_hour == 1.5
    assert card.memory_bytes == CATALOGUE.card("A100-80GB").memory_bytes


def test_a_project_adds_a_card(tmp_path: Path) -> None:
    catalogue = own(tmp_path, "cards: {MI300X: {memory_mib: 196592, bf16_tflops: 1307}}")
    assert catalogue.gpus("2xMI300X").usd_per_hour is None
    assert "price unknown" in catalogue.card("mi300x").describe()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("cards: {X1: {memory_mib: 0, bf16_tflops: 1}}", "cards.X1.memory_mib"),
        ("cards: {X1: {memory_mib: 1, bf16_tflops: null}}", "cards.X1"),
        ("cards: {X1: {memory_mib: 1, bf16_tflops: 1, usd_per_hour: -3}}", "cards.X1.usd_per_hour"),
        ("cards: {X1: {memory_mib: 1, bf16_tflops: 1, prize: 2}}", "cards.X1.prize"),
        ("cards: {X1: {bf16_tflops: 1}}", "cards.X1.memory_mib"),
        ("cards: {X1: {memory_mib: 1, bf16_tflops: 1, driver: '('}}", "cards.X1.driver"),
        ("cards: {X1: 80}", "cards.X1"),
    ],
)
def test_a_wrong_card_is_refused_by_file_and_field(tmp_path: Path, text: str, field: str) -> None:
    with pytest.raises(UserError) as error:
        own(tmp_path, text)
    assert error.value.file == str(tmp_path / "gpus.yaml")
    assert error.value.field == field


@pytest.mark.parametrize("text", ["A100: {memory_mib: 1}", "cards: []"])
def test_a_file_that_is_no_catalogue_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="not a catalogue"):
        own(tmp_path, text)


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA H100 80GB HBM3", "H100-80GB"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H100 NVL", "H100-NVL"),
        ("NVIDIA H200", "H200-141GB"),
        ("NVIDIA H200 NVL", "H200-NVL"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("Tesla T4", "T4"),
        ("Tesla V100-SXM2-32GB", "V100-32GB"),
        ("NVIDIA GeForce RTX 3090", "RTX3090"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
    ],
)
def test_a_card_is_known_by_its_drivers_name(driver: str, name: str) -> None:
    assert present(CATALOGUE.named_by_driver(driver)).name == name


@pytest.mark.parametrize(
    "driver",
    [
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
        "NVIDIA A10G",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GH200 480GB",
        "Tesla V100-SXM2-16GB",
    ],
)
def test_a_card_that_is_only_alike_is_not_taken_for_it(driver: str) -> None:
    assert CATALOGUE.named_by_driver(driver) is None


def test_found_gpus_keep_their_own_memory_and_the_slowest_counts() -> None:
    devices = (
        Device("0", 85_000_000_000, "NVIDIA A100-SXM4-80GB"),
        Device("1", 42_000_000_000, "NVIDIA L40S"),
    )
    hardware = CATALOGUE.found(Inventory("gpu", devices))
    assert hardware.count == 2
    assert hardware.memory_bytes == 42_000_000_000
    assert hardware.peak_flops == 312e12
    assert hardware.usd_per_hour == pytest.approx((2.79 + 1.95) / 2)


def test_a_found_gpu_that_is_not_listed_has_no_price_rather_than_a_wrong_one() -> None:
    hardware = CATALOGUE.found(Inventory("gpu", (Device("0", 10**10, "NVIDIA X"),)))
    assert (hardware.peak_flops, hardware.usd_per_hour) == (None, None)


def test_a_host_without_gpus_plans_for_its_cpu() -> None:
    hardware = CATALOGUE.found(Inventory("cpu", (Device("0", None, "CPU slot"),), cores=2))
    assert (hardware.kind, hardware.count, hardware.usd_per_hour) == ("cpu", 1, None)
