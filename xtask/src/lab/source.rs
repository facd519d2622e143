// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The source of a kernel: unpacked from its package, and patched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cache::{self, files};
use super::environment::Recipe;
use crate::shell::{self, root};

/// A recipe's source in `folder`: of an interrupted build, or a new one, to which
/// `prepare` is applied.
///
/// # Errors
/// It cannot be unpacked, a patch does not apply, or `prepare` fails.
pub fn tree(
    name: &str,
    recipe: Recipe,
    debs: &[PathBuf],
    folder: &Path,
    prepare: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let tree = folder.join("tree");
    if !tree.exists() {
        eprintln!("xtask: lab: {name}: unpacking the source");
        let new = folder.join("tree.new");
        cache::remove(&new)?;
        unpack(debs, &folder.join("package"), &new)?;
        patch(recipe, &new)?;
        prepare(&new)?;
        fs::rename(&new, &tree).map_err(|e| cache::at(&tree, &e))?;
    }
    Ok(tree)
}

/// The contents of the recipe's patches.
///
/// # Errors
/// One cannot be read.
pub fn patch_contents(recipe: Recipe) -> Result<Vec<Vec<u8>>, String> {
    let read = |patch: PathBuf| fs::read(&patch).map_err(|e| cache::at(&patch, &e));
    patches(recipe).into_iter().map(read).collect()
}

/// The folder of the configurations, patches and scripts of lab kernels.
pub fn lab_folder() -> PathBuf {
    root().join("xtask").join("lab")
}

/// Unpacks the source's archive from its package, and the source from its
/// archive.
fn unpack(debs: &[PathBuf], package: &Path, tree: &Path) -> Result<(), String> {
    cache::remove(package)?;
    cache::make_folder(package)?;
    cache::make_folder(tree)?;
    for deb in debs {
        shell::capture(Command::new("dpkg-deb").arg("-x").arg(deb).arg(package))?;
    }
    let is_archive = |path: &PathBuf| path.to_string_lossy().contains(".tar.");
    let archive = files(&package.join("usr/src")).into_iter().find(is_archive);
    let archive = archive.ok_or("the source package has no archive in it")?;
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(archive).arg("-C").arg(tree);
    shell::capture(tar.arg("--strip-components=1"))?;
    cache::remove(package)
}

/// Applies the recipe's patches. Each must apply exactly.
fn patch(recipe: Recipe, tree: &Path) -> Result<(), String> {
    for patch in patches(recipe) {
        let mut command = Command::new("patch");
        command.args(["-p1", "--batch", "--forward", "--fuzz=0", "-i"]);
        let applied = shell::capture(command.arg(&patch).current_dir(tree));
        applied.map_err(|error| {
            let version = version(&fs::read_to_string(tree.join("Makefile")).unwrap_or_default());
            let name = patch.file_name().unwrap_or_default().to_string_lossy();
            let known = patch.with_file_name("versions");
            let known = fs::read_to_string(known).unwrap_or_else(|_| "not noted".into());
            let known = known.split_whitespace().collect::<Vec<_>>().join(", ");
            format!("{name} does not apply to Linux {version}; versions it is known to apply to: {known} ({error})")
        })?;
    }
    Ok(())
}

/// The version that a kernel's Makefile states.
fn version(makefile: &str) -> String {
    let field = |name: &str| {
        let value = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(" = ")?.to_string());
        makefile
            .lines()
            .find_map(value)
            .unwrap_or_else(|| "?".into())
    };
    let parts = ["VERSION", "PATCHLEVEL", "SUBLEVEL"].map(field);
    parts.join(".")
}

/// The recipe's patches, in the order of their folders and names.
fn patches(recipe: Recipe) -> Vec<PathBuf> {
    let all = recipe
        .patches
        .iter()
        .flat_map(|name| files(&lab_folder().join(name)));
    let is_patch = |path: &PathBuf| path.extension().is_some_and(|end| end == "patch");
    all.filter(is_patch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_makefile() {
        let makefile = "# SPDX\nVERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\nEXTRAVERSION =\n";
        assert_eq!(version(makefile), "7.3.4");
        assert_eq!(version(""), "?.?.?");
    }
}
