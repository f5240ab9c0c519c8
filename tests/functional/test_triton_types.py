"""The GPU kernels as their compiler sees them: they compile without a GPU, and every address is 64 bits wide.

At 262,144 rows of width 1024 a row's offset, and at B x K the place in a table, leave int32.
"""

import os
import re
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("triton", reason="triton is not installed: the GPU kernels are not tested")

# In a fresh process: there the kernels are compiled functions, not interpreted ones.
LOWER = textwrap.dedent(
    """
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, make_backend
    from tercet.functional import _triton_kernels as kernels, _triton_pairs as pairs

    TYPES = dict.fromkeys("rows columns positives first_positive floors first_floor".split(), "i32")
    for of, names in {
        "*bf16": "x z other_x other_z",
        "*fp32": "size other_size d_table other_d_table margin other_margin weight other_weight slope_table dz "
        "floor_table c_table other_c_table c_L",
        "*i32": "name other_name other_given given_table",
        "*i64": "self_place other_self_place first last other_first active begins other_L",
        "*fp64": "loss",
    }.items():
        TYPES |= dict.fromkeys(names.split(), of)
    OPTIONS = dict(WIDTH=1000, R=64, N=32, W=64, V=128, P=8, S=16, PRECISION="ieee", UPCAST=False, OWN=True, OTHER=True)
    OPTIONS |= dict(GRADIENT=True, KIND=kernels.EUCLIDEAN.value, TIMES=kernels.SPLIT.value)
    target = GPUTarget("cuda", 90, 32)
    backend = make_backend(target)
    for kernel, soft in (
        (kernels.positive_distances, False),
        (kernels.all_triplets, False),
        (kernels.all_triplets, True),
        (kernels.nearest_negatives, False),
        (pairs.positive_pairs, False),
        (pairs.listed_pairs, False),
    ):
        given = OPTIONS | {"SOFT": soft}
        signature = {name: "constexpr" if name in given else TYPES[name] for name in kernel.arg_names}
        fixed = {(i,): given[name] for i, name in enumerate(kernel.arg_names) if name in given}
        context = ir.context()
        ir.load_dialects(context)
        backend.load_dialects(context)
        options = backend.parse_options({})
        source = ASTSource(fn=kernel, signature=signature, constexprs=fixed)
        functions = backend.get_codegen_implementation(options)
        print("KERNEL", kernel.__name__)
        print(source.make_ir(target, options, functions, backend.get_module_map(), context))
    """
)


@pytest.fixture(scope="module")
def lowered():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", LOWER], capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    return {part.split("\n", 1)[0]: part for part in done.stdout.split("KERNEL ")[1:]}


def test_every_kernel_lowers_without_a_gpu(lowered):
    assert list(lowered) == [
        "positive_distances",
        "all_triplets",
        "nearest_negatives",
        "positive_pairs",
        "listed_pairs",
    ]


def test_every_address_is_64_bits_wide(lowered):
    for name, text in lowered.items():
        offsets = re.findall(r"tt\.addptr .*, (\S+?) loc|tt\.addptr .*, (\S+)$", text, re.MULTILINE)
        types = {(a or b).strip() for a, b in offsets}
        assert types, name
        assert all("i64" in t for t in types), (name, types)


def test_nothing_is_added_by_atomics(lowered):
    assert not any("atomic" in text for text in lowered.values())


def test_half_rows_enter_their_products_as_they_are_and_add_up_in_float32(lowered):
    products = re.findall(r"tt\.dot .*: (.*?)(?: loc|$)", lowered["all_triplets"], re.MULTILINE)
    assert products
    for types in products:
        assert types.count("bf16") == 2 and types.rstrip().endswith("xf32>"), types
