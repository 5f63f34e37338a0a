"""tools/sass.py and tools/instructions.py: instructions are counted along the paths through a loop."""

from __future__ import annotations

import pytest
from tool_modules import load

from nfc_gs.core.errors import UserError
from nfc_gs.ops import nvrtc

sass, instructions, cubins = load("sass"), load("instructions"), load("cubins")

LISTING = """
\t.section\t.text.other,"ax",@progbits
other:
.text.other:
        /*0000*/                   EXIT ;
\t.section\t.text.raster,"ax",@progbits
raster:
.text.raster:
        /*0000*/                   MOV R1, 0x1 ;
.L_x_1:
        /*0010*/                   LDS R2, [R3] ;
        /*0020*/              @!P0 BRA `(.L_x_3) ;
        /*0030*/                   FFMA R4, R4, R4, R4 ;
        /*0040*/               @P1 FSETP.GE.FTZ.AND P2, PT, R4, -7.9943532943725585938, PT ;
        /*0050*/                   BRA.DIV UR4, `(.L_x_4) ;
.L_x_2:
        /*0060*/               @P2 BRA `(.L_x_3) ;
        /*0070*/                   FADD R5, R5, R4 ;
        /*0080*/                   FADD R6, R6, R4 ;
        /*0090*/                   CALL.REL.NOINC `($__internal_0) ;
        /*00a0*/                   BRA `(.L_x_3) ;
.L_x_3:
        /*00b0*/                   IADD3 R3, R3, 0x4, RZ ;
        /*00c0*/               @P3 BRA `(.L_x_1) ;
        /*00d0*/                   EXIT ;
.L_x_4:
        /*00e0*/                   WARPSYNC.COLLECTIVE R7, `(.L_x_5) ;
.L_x_5:
        /*00f0*/                   BRA `(.L_x_2) ;
.L_x_6:
        /*0100*/                   BRA `(.L_x_6);
"""


def test_an_iteration_costs_the_instructions_on_its_path():
    kernels = sass.kernels(LISTING)
    assert set(kernels) == {"other", "raster"}
    loop = sass.loop_around(kernels["raster"], instructions.ALPHA_TEST)
    assert loop.shortest() == 2 + 2
    assert loop.shortest(through=lambda block: block.has(instructions.ALPHA_TEST)) == 2 + 3 + 1 + 2
    assert loop.longest() == 2 + 3 + 1 + 2  # what calls a function is hardly ever run
    assert loop.count("FADD|FFMA") == 1
    without_call = sass.kernels(LISTING.replace("CALL.REL.NOINC `($__internal_0)", "NOP"))["raster"]
    assert sass.loop_around(without_call, "FFMA").longest() == 2 + 3 + 1 + 4 + 2


def test_code_without_the_loop_that_is_looked_for_is_an_error():
    blocks = sass.kernels(LISTING)["raster"]
    with pytest.raises(UserError, match=r"no loop .* has an instruction like MUFU"):
        sass.loop_around(blocks, "MUFU")
    loop = sass.loop_around(blocks, "FFMA")
    with pytest.raises(UserError, match="no such iteration"):
        loop.shortest(avoiding=frozenset([loop.head]))


def test_the_kernels_are_within_their_budgets_and_what_is_over_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    try:
        nvrtc.compiler_name()
        sass.disassembler()
    except UserError as error:
        pytest.skip(str(error))
    usages = [cubins.Usage(kernel, "sm_90", 3, 40, 0, 0, 0) for kernel in instructions.KERNELS.values()]
    monkeypatch.setattr(cubins, "compile_all", lambda architectures: usages)
    monkeypatch.setattr(cubins.sys, "argv", ["cubins.py", "sm_90"])
    assert cubins.main() == 0
    out = capsys.readouterr().out
    assert all(name in out for name in instructions.BUDGETS)
    monkeypatch.setitem(instructions.BUDGETS, "raster: blended", 12)
    assert cubins.main() == 1
    assert "raster: blended (sm_90): " in (err := capsys.readouterr().err) and "over the budget of 12." in err
