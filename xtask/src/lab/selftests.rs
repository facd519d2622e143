// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Builds the selftests of a kernel from its source, unmodified: static programs
//! without debug information, in a folder for each suite. Some of them are built
//! for the simulated KVM too, with which `tests/preload` runs them.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::build::Builder;
use super::cache::{self, Cache, files};
use super::environment::Recipe;
use super::obstacle::Obstacle;
use super::source;
use crate::shell;

/// The suites: folders of `tools/testing/selftests`.
const SUITES: [&str; 3] = ["kvm", "vfio", "iommu"];

/// The linker's flags: no libraries in the lab.
const LINKER_FLAGS: &str = "LDFLAGS=-static -pthread";

/// The programs of KVM's suite that run on the simulated KVM.
const PRELOADED: [&str; 6] = [
    "vm_types_test",
    "set_memory_region_test",
    "guest_memfd_test",
    "pre_fault_memory_test",
    "x86/private_mem_conversions_test",
    "x86/private_mem_kvm_exits_test",
];

/// The compiler's flags for them. Each subtest stays a function with a frame and
/// a symbol.
const PRELOADED_FLAGS: &str = "EXTRA_CFLAGS=-fno-inline-functions \
    -fno-inline-functions-called-once -fno-inline-small-functions -fno-partial-inlining \
    -fno-ipa-sra -fno-ipa-cp -fno-optimize-sibling-calls";

/// What determines the programs together with the source.
///
/// # Errors
/// One of the patches cannot be read.
pub fn inputs(recipe: Recipe) -> Result<Vec<Vec<u8>>, String> {
    let mut inputs = vec![SUITES.join(" ").into_bytes(), LINKER_FLAGS.into()];
    if is_simulated(recipe) {
        inputs.extend([PRELOADED.join(" ").into_bytes(), PRELOADED_FLAGS.into()]);
    }
    inputs.extend(source::patch_contents(recipe)?);
    Ok(inputs)
}

/// Whether the simulated KVM is that of the recipe's kernel. It is Linux's own,
/// without patches.
fn is_simulated(recipe: Recipe) -> bool {
    recipe.patches.is_empty()
}

/// The folder of a cache entry with the programs that run with a preloaded
/// library. They are linked dynamically.
pub fn preloaded(entry: &Path) -> PathBuf {
    entry.join("dynamic/kvm")
}

/// The programs of a cache entry that a kernel carries: those that are linked
/// statically.
///
/// # Errors
/// One cannot be read.
pub fn carried(entry: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for suite in SUITES {
        found.extend(programs(&entry.join(suite))?);
    }
    Ok(found)
}

/// Builds the programs from the source of a package into a folder.
///
/// # Errors
/// A step fails, or the build exceeds its limit. It can be resumed.
pub fn build(
    builder: Builder,
    cache: &Cache,
    recipe: Recipe,
    debs: &[PathBuf],
    to: &Path,
) -> Result<(), Obstacle> {
    let start = Instant::now();
    let name = format!("selftests of Linux {}{}", recipe.line, recipe.suffix);
    let folder = cache
        .folder("builds")?
        .join(to.file_name().unwrap_or_default());
    let tree = source::tree(&name, recipe, debs, &folder, |_| Ok(()))?;
    let log = folder.join("make.log");
    builder.make(&name, &["headers"], &tree, &log, start)?;
    let suite_folder = |suite| tree.join("tools/testing/selftests").join(suite);
    for suite in SUITES {
        let (name, suite_folder) = (format!("{name}, {suite}"), suite_folder(suite));
        builder.make(&name, &[LINKER_FLAGS], &suite_folder, &log, start)?;
        collect(&suite_folder, &to.join(suite), "--strip-all")?;
    }
    if is_simulated(recipe) {
        let name = format!("{name}, for the simulated KVM");
        let output = folder.join("dynamic");
        let arguments = preloaded_arguments(&output);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        builder.make(&name, &arguments, &suite_folder("kvm"), &log, start)?;
        // Their symbols name the subtests.
        collect(&output, &preloaded(to), "--strip-debug")?;
    }
    Ok(cache::remove(&folder)?)
}

/// The arguments of make for the programs that run with a preloaded library.
/// Programs and objects are written to an absolute path, not between those of the
/// static programs.
fn preloaded_arguments(output: &Path) -> Vec<String> {
    let targets = PRELOADED.map(|program| output.join(program).display().to_string());
    let mut arguments = vec![
        format!("OUTPUT={}", output.display()),
        PRELOADED_FLAGS.into(),
    ];
    arguments.extend(targets);
    arguments
}

/// Copies the programs of a folder and its subfolders, stripped.
fn collect(from: &Path, to: &Path, strip: &str) -> Result<(), String> {
    for path in programs(from)? {
        let place = to.join(path.strip_prefix(from).unwrap_or(&path));
        cache::make_folder(place.parent().unwrap_or(to))?;
        shell::capture(
            Command::new("strip")
                .arg(strip)
                .arg("-o")
                .arg(&place)
                .arg(&path),
        )?;
    }
    Ok(())
}

/// The programs of a folder and its subfolders, in the order of their names.
///
/// # Errors
/// One cannot be read.
fn programs(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for path in files(folder) {
        if path.is_dir() {
            found.extend(programs(&path)?);
        } else if is_program(&path)? {
            found.push(path);
        }
    }
    Ok(found)
}

/// Whether a file is a linked program: an ELF file of the type EXEC or DYN, not
/// an object file.
fn is_program(path: &Path) -> Result<bool, String> {
    let mut start = [0; 18];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    match read {
        Ok(()) => Ok(start.starts_with(b"\x7fELF") && matches!(start[16], 2 | 3)),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(cache::at(path, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::environment::{Environment, find};
    use std::fs;

    #[test]
    fn programs_are_linked_files_of_the_folder_and_its_subfolders() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            cache::make_folder(path.parent().expect("a folder")).expect("made");
            fs::write(path, content).expect("written");
        };
        let elf = |kind: u8| [&b"\x7fELF\x02\x01\x01"[..], &[0; 9], &[kind, 0]].concat();
        write("static", &elf(2));
        write("x86/static_pie", &elf(3));
        write("x86/object.o", &elf(1));
        write(
            "test.sh",
            b"#!/bin/bash\n# a script, longer than a header\n",
        );
        write("empty", b"");
        let found = programs(folder.path()).expect("read");
        let names = ["static", "x86/static_pie"].map(|name| folder.path().join(name));
        assert_eq!(found, names);
    }

    #[test]
    fn a_kernel_carries_the_programs_of_the_suites_but_not_the_preloaded_ones() {
        let entry = tempfile::tempdir().expect("a folder");
        let elf = [&b"\x7fELF\x02\x01\x01"[..], &[0; 9], &[2, 0]].concat();
        let [vfio, kvm] = ["vfio", "kvm/x86"].map(|suite| entry.path().join(suite));
        for folder in [&vfio, &kvm, &preloaded(entry.path())] {
            cache::make_folder(folder).expect("made");
            fs::write(folder.join("it_test"), &elf).expect("written");
        }
        let carried = carried(entry.path()).expect("read");
        assert_eq!(carried, [kvm, vfio].map(|suite| suite.join("it_test")));
        assert_eq!(programs(entry.path()).map(|all| all.len()), Ok(3));
    }

    #[test]
    fn the_preloaded_programs_count_only_where_no_patch_is_applied() {
        let is_input = |name: &str| {
            let recipe = find(name).ok().and_then(Environment::selftests);
            let inputs = inputs(recipe.expect("it has some")).expect("readable");
            [PRELOADED.join(" "), PRELOADED_FLAGS.into()]
                .map(|input| inputs.contains(&input.into_bytes()))
        };
        assert_eq!(is_input("lab-7.3"), [true; 2]);
        assert_eq!(is_input("lab-7.3-private-mmio"), [false; 2]);
    }

    #[test]
    fn the_preloaded_programs_are_built_outside_the_suites_folder() {
        let arguments = preloaded_arguments(Path::new("/out"));
        assert_eq!(arguments[0], "OUTPUT=/out");
        assert!(arguments.contains(&"/out/x86/private_mem_conversions_test".into()));
        assert!(
            !arguments
                .iter()
                .any(|argument| argument.contains("-static"))
        );
    }
}
