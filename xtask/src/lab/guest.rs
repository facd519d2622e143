// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A Linux to boot with `vmm boot`.

use std::fs;
use std::path::{Path, PathBuf};

use super::apt::Network;
use super::architecture::native;
use super::cache;
use super::environment::{Environment, find_guest};
use super::{Bootable, Payload, make_bootable};
use crate::shell::root;

/// The kernel and the initramfs that [`fetch`] copies if no folder is named.
pub fn fetched() -> [PathBuf; 2] {
    FILES.map(|name| folder().join(name))
}

/// The names of the copies.
const FILES: [&str; 2] = ["kernel", "initrd"];

fn folder() -> PathBuf {
    root().join("target").join("guest")
}

/// Copies the kernel and the initramfs of a guest to a folder, and prints the
/// command that boots them.
///
/// # Errors
/// There is no such guest, it cannot be downloaded, or the folder cannot be
/// written.
pub fn fetch(line: &str, generic: bool, to: Option<&Path>) -> Result<(), String> {
    let guest = make(find_guest(native(), line, generic)?, Network::Daily)?;
    let folder = to.map_or_else(folder, PathBuf::from);
    cache::make_folder(&folder)?;
    let copy = |from: &Path, name: &str| {
        let place = folder.join(name);
        let copied = fs::copy(from, &place).map_err(|e| cache::at(&place, &e));
        copied.map(|_| place)
    };
    let kernel = copy(guest.kernel(), FILES[0])?;
    let initrd = copy(guest.initramfs(), FILES[1])?;
    eprintln!("xtask: lab: {}", guest.origin());
    println!("{}\n{}", kernel.display(), initrd.display());
    println!(
        "\ncargo run --release -p vmm -- boot --kernel {} --initrd {}",
        kernel.display(),
        initrd.display()
    );
    Ok(())
}

/// A guest's kernel and initramfs, from the cache or downloaded.
///
/// # Errors
/// They are not available.
pub fn make(guest: Environment, network: Network) -> Result<Bootable, String> {
    let made = make_bootable(&[guest], &Payload::Guest, network, None);
    Ok(made.into_iter().next().ok_or("no guest")??)
}
