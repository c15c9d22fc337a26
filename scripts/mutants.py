"""Plants faults in the product, one at a time, and fails unless the simulator finds each of them.

A mutant is a patch of one source file: tests/sim/mutants/NAME.patch, whose first line says what it breaks. Its file is
copied to build/mutants/NAME, patched, compiled as the build compiles it, and linked before the libraries of
mooncake_sim, so that it takes the place of the object in there. Nothing else is built again.

    python3 scripts/mutants.py [NAME ...]     after a build of mooncake_simulator in build/

The last line counts them. Exit codes: 0 all were found, 1 one was not (or does not apply, or does not compile)."""
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
PATCHES = ROOT / "tests/sim/mutants"
SEEDS = 500
SECONDS_MAX = 120  # of one mutant's runs


def run(command, **options):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def compile_commands():
    """The command that compiles each source file, by its path from the root."""
    entries = json.loads((BUILD / "compile_commands.json").read_text())
    return {str(Path(entry["file"]).relative_to(ROOT)): entry["command"] for entry in entries
            if Path(entry["file"]).is_relative_to(ROOT)}


def link_command():
    text = run(["ninja", "-C", str(BUILD), "-t", "commands", "mooncake_simulator"]).stdout
    return text.strip().splitlines()[-1].removeprefix(": && ").removesuffix(" && :")


def build(patch, compilers, linker):
    """The mutant's program; raises ValueError with the reason if there is none."""
    folder = BUILD / "mutants" / patch.stem
    shutil.rmtree(folder, ignore_errors=True)
    text = patch.read_text()
    changed = re.findall(r"^\+\+\+ b/(\S+)", text, re.MULTILINE)
    if len(changed) != 1:
        raise ValueError("it must change one file")
    # A header is compiled into the one source file that includes it, which the patch names.
    source = (re.findall(r"^# compile (\S+)", text, re.MULTILINE) or changed)[0]
    # The whole folder: what is included from beside a file is found there.
    shutil.copytree((ROOT / source).parent, (folder / source).parent)
    applied = run(["patch", "-p1", "--forward", "--fuzz=0", "-d", str(folder)], input=text)
    if applied.returncode != 0:
        raise ValueError("it does not apply:\n" + applied.stdout)
    compiler = shlex.split(compilers[source])
    target = folder / "mutant.o"
    compiler[compiler.index("-o") + 1] = str(target)
    compiler[compiler.index("-c") + 1] = str(folder / source)
    for flag, value in (("-MF", str(folder / "mutant.d")), ("-MT", str(target))):
        if flag in compiler:
            compiler[compiler.index(flag) + 1] = value
    compiler.insert(compiler.index("-c"), f"-I{folder / 'src'}")
    compiler = ["-I" + str(folder / "src") if part == "-I" + str(ROOT / "src") else part for part in compiler]
    compiler.insert(compiler.index("-c"), "-I" + str(ROOT / "src"))
    compiled = run(compiler, cwd=BUILD)
    if compiled.returncode != 0:
        raise ValueError("it does not compile:\n" + compiled.stdout)
    program = folder / "mooncake_sim"
    linked = run(linker.replace(" -o bin/mooncake_sim", f" {target} -o {program}"), shell=True, cwd=BUILD)
    if linked.returncode != 0:
        raise ValueError("it cannot be linked:\n" + linked.stdout)
    return program


def hunt(program):
    """How the mutant was found, or None."""
    for arguments in (["--seeds", str(SEEDS), "--brief"], ["--crash-points"]):
        try:
            outcome = run([str(program), *arguments], timeout=SECONDS_MAX)
        except subprocess.TimeoutExpired:
            return f"a run did not end within {SECONDS_MAX} s"
        if outcome.returncode != 0:
            lines = [line.strip() for line in outcome.stdout.splitlines()]
            found = next((line for line in lines if line.startswith("(")), None)
            seed = next((line for line in lines if line.startswith("seed")), "")
            return f"{seed.split(' ')[1].strip(':') if seed else '-'}: {found or f'exit code {outcome.returncode}'}"
    return None


def main():
    names = sys.argv[1:]
    patches = sorted(p for p in PATCHES.glob("*.patch") if not names or p.stem in names)
    compilers, linker = compile_commands(), link_command()
    (BUILD / "mutants").mkdir(parents=True, exist_ok=True)
    failed = 0
    with ThreadPoolExecutor(2) as pool:
        programs = [(patch, pool.submit(build, patch, compilers, linker)) for patch in patches]
        for patch, program in programs:
            begin = time.monotonic()
            try:
                how = hunt(program.result())
                reason = f"nothing was seen in {SEEDS} seeds"
            except ValueError as error:
                how, reason = None, str(error)
            if how:
                print(f"ok      mutant {patch.stem} ({time.monotonic() - begin:.0f} s), seed {how[:150]}", flush=True)
            else:
                failed += 1
                print(f"FAILED  mutant {patch.stem}: {reason}", flush=True)
    print(f"{len(patches)} mutants, {failed} not found")
    return 1 if failed or not patches else 0


if __name__ == "__main__":
    sys.exit(main())
