// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Selects a kernel's modules and their order of loading, from the dependencies
//! that each module lists.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cache;
use crate::shell;

/// Checks that a package's tree has these modules, or that its kernel has them built in.
/// A tree that does not list what is built in is not checked.
///
/// # Errors
/// A folder cannot be read, or a module is missing.
pub fn check(tree: &Path, wanted: &[&str]) -> Result<(), String> {
    let Some(built_in) = built_in(tree)? else {
        return Ok(());
    };
    let mut files = BTreeMap::new();
    find(tree, &mut files)?;
    let is_there = |name: &str| files.contains_key(name) || built_in.contains(&name.into());
    let missing = wanted.iter().filter(|name| !is_there(&plain(name)));
    let missing: Vec<&str> = missing.copied().collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "the kernel has these neither as modules nor built in: {}",
            missing.join(", ")
        )),
    }
}

/// The names of what is built in: `modules.builtin` below a folder, if there is such a
/// file.
fn built_in(folder: &Path) -> Result<Option<Vec<String>>, String> {
    for path in cache::files(folder) {
        let own = path.join("modules.builtin");
        if own.is_file() {
            let text = fs::read_to_string(&own).map_err(|e| cache::at(&own, &e))?;
            let names = text.lines().filter_map(|line| Path::new(line).file_stem());
            let names = names.map(|name| plain(&name.to_string_lossy()));
            return Ok(Some(names.collect()));
        }
    }
    Ok(None)
}

/// Copies modules and their dependencies from a package's tree to a folder,
/// uncompressed, with names that sort in the order of loading. A missing module
/// is assumed to be built in.
///
/// # Errors
/// A file cannot be read or written, or modules depend on each other.
pub fn collect(tree: &Path, wanted: &[&str], to: &Path) -> Result<(), String> {
    let mut files = BTreeMap::new();
    find(tree, &mut files)?;
    let mut contents = BTreeMap::new();
    let mut open: Vec<String> = wanted.iter().map(|name| plain(name)).collect();
    while let Some(name) = open.pop() {
        if let (Some(file), false) = (files.get(&name), contents.contains_key(&name)) {
            let content = read(file)?;
            open.extend(depends(&content));
            contents.insert(name, content);
        }
    }
    let needs: BTreeMap<String, Vec<String>> = contents
        .iter()
        .map(|(name, content)| (name.clone(), depends(content)))
        .collect();
    cache::make_folder(to)?;
    for (number, name) in order(&needs)?.iter().enumerate() {
        let path = to.join(format!("{number:02}-{name}.ko"));
        fs::write(&path, &contents[name]).map_err(|e| cache::at(&path, &e))?;
    }
    Ok(())
}

/// All modules below a folder by name, without following links.
fn find(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<(), String> {
    let entries = fs::read_dir(folder).map_err(|e| cache::at(folder, &e))?;
    for entry in entries.flatten() {
        let path = entry.path();
        let kind = entry.file_type().map_err(|e| cache::at(&path, &e))?;
        if kind.is_dir() {
            find(&path, files)?;
        } else if let Some((name, "ko" | "ko.xz")) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.split_once('.'))
        {
            files.insert(plain(name), path);
        }
    }
    Ok(())
}

/// The content of a module, uncompressed.
fn read(file: &Path) -> Result<Vec<u8>, String> {
    if file.extension().is_some_and(|end| end == "xz") {
        shell::capture(Command::new("xz").arg("-dkf").arg(file))?;
        return read(&file.with_extension(""));
    }
    fs::read(file).map_err(|e| cache::at(file, &e))
}

/// The kernel treats `-` and `_` as equal.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

/// The dependencies of a module: `depends=a,b` in its data, terminated by a
/// zero byte.
fn depends(module: &[u8]) -> Vec<String> {
    const MARK: &[u8] = b"\0depends=";
    let Some(at) = module.windows(MARK.len()).position(|bytes| bytes == MARK) else {
        return Vec::new();
    };
    let list = &module[at + MARK.len()..];
    let end = list.iter().position(|&byte| byte == 0);
    let list = String::from_utf8_lossy(&list[..end.unwrap_or(list.len())]);
    let names = list.split(',').filter(|name| !name.is_empty());
    names.map(plain).collect()
}

/// An order in which each module comes after its dependencies.
fn order(needs: &BTreeMap<String, Vec<String>>) -> Result<Vec<String>, String> {
    let mut order: Vec<String> = Vec::new();
    while order.len() < needs.len() {
        let is_there = |name: &String| order.contains(name) || !needs.contains_key(name);
        let next = needs
            .iter()
            .find(|(name, needed)| !order.contains(name) && needed.iter().all(is_there));
        let (next, _) = next.ok_or("kernel modules that stand on each other in a circle")?;
        order.push(next.clone());
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(depends: &str) -> Vec<u8> {
        format!("\x7fELF\0license=GPL\0depends={depends}\0name=it\0").into_bytes()
    }

    #[test]
    fn dependencies_are_collected_in_the_order_of_loading() {
        let folder = tempfile::tempdir().expect("a folder");
        let (tree, to) = (folder.path().join("lib"), folder.path().join("to"));
        cache::make_folder(&tree.join("kvm")).expect("a folder");
        for (name, depends) in [
            ("kvm/kvm-amd.ko", "kvm,ccp"),
            ("kvm/kvm.ko", "irqbypass"),
            ("irqbypass.ko", ""),
            ("e1000.ko", ""),
        ] {
            fs::write(tree.join(name), module(depends)).expect("written");
        }
        collect(&tree, &["kvm_amd", "vfio_pci"], &to).expect("collected");
        let entries = fs::read_dir(&to).expect("a folder").flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        assert_eq!(names, ["00-irqbypass.ko", "01-kvm.ko", "02-kvm_amd.ko"]);
    }

    #[test]
    fn a_module_that_is_neither_a_file_nor_built_in_is_missing() {
        let folder = tempfile::tempdir().expect("a folder");
        let tree = folder.path().join("7.3.4");
        cache::make_folder(&tree).expect("a folder");
        fs::write(tree.join("kvm-amd.ko"), module("")).expect("written");
        let wanted = ["kvm_amd", "vfio_pci"];
        assert_eq!(check(folder.path(), &wanted), Ok(()), "nothing is listed");
        let list = tree.join("modules.builtin");
        fs::write(&list, "kernel/drivers/vfio/vfio.ko\n").expect("written");
        let error = check(folder.path(), &wanted).expect_err("one is missing");
        assert!(error.ends_with(": vfio_pci"), "{error}");
        fs::write(&list, "kernel/drivers/vfio/pci/vfio-pci.ko\n").expect("written");
        assert_eq!(check(folder.path(), &wanted), Ok(()));
    }

    #[test]
    fn a_module_without_a_list_has_no_dependencies() {
        assert_eq!(depends(b"\x7fELF"), Vec::<String>::new());
        assert_eq!(depends(&module("")), Vec::<String>::new());
        assert_eq!(
            depends(b"\0depends=vfio-pci-core,vfio"),
            ["vfio_pci_core", "vfio"]
        );
    }

    #[test]
    fn a_cycle_is_an_error() {
        let needs = |name: &str, on: &str| (name.to_string(), vec![on.to_string()]);
        let circle = BTreeMap::from([needs("a", "b"), needs("b", "a")]);
        assert!(order(&circle).is_err());
    }
}
