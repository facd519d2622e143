// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Builds the selftests of a kernel from its source, unmodified: static programs
//! without debug information, in a folder for each suite.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::build::Builder;
use super::cache::{self, Cache, files};
use super::environment::Recipe;
use super::source;
use crate::shell;

/// The suites: folders of `tools/testing/selftests`.
const SUITES: [&str; 3] = ["kvm", "vfio", "iommu"];

/// The linker's flags: no libraries in the lab.
const LINKER_FLAGS: &str = "LDFLAGS=-static -pthread";

/// What determines the programs together with the source.
///
/// # Errors
/// One of the patches cannot be read.
pub fn inputs(recipe: Recipe) -> Result<Vec<Vec<u8>>, String> {
    let mut inputs = vec![SUITES.join(" ").into_bytes(), LINKER_FLAGS.into()];
    inputs.extend(source::patch_contents(recipe)?);
    Ok(inputs)
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
) -> Result<(), String> {
    let start = Instant::now();
    let name = format!("selftests of Linux {}{}", recipe.line, recipe.suffix);
    let folder = cache
        .folder("builds")?
        .join(to.file_name().unwrap_or_default());
    let tree = source::tree(&name, recipe, debs, &folder, |_| Ok(()))?;
    let log = folder.join("make.log");
    builder.make(&name, &["headers"], &tree, &log, start)?;
    for suite in SUITES {
        let suite_folder = tree.join("tools/testing/selftests").join(suite);
        let name = format!("{name}, {suite}");
        builder.make(&name, &[LINKER_FLAGS], &suite_folder, &log, start)?;
        collect(&suite_folder, &to.join(suite))?;
    }
    cache::remove(&folder)
}

/// Copies the programs of a folder and its subfolders, stripped.
fn collect(from: &Path, to: &Path) -> Result<(), String> {
    for path in programs(from)? {
        let place = to.join(path.strip_prefix(from).unwrap_or(&path));
        cache::make_folder(place.parent().unwrap_or(to))?;
        shell::capture(Command::new("strip").arg("-o").arg(&place).arg(&path))?;
    }
    Ok(())
}

/// The programs of a folder and its subfolders, in the order of their names.
///
/// # Errors
/// One cannot be read.
pub fn programs(folder: &Path) -> Result<Vec<PathBuf>, String> {
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
}
