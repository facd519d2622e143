// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Records what each environment was made of last time, so that it can be used
//! again without a network, and which cache entries belong to it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::architecture::Architecture;
use super::build;
use super::cache;
use super::environment::{Environment, Kernel, Recipe};
use super::packages::Package;
use super::selftests;

/// Changed when the same packages would produce something else.
const EDITION: &[u8] = b"1";

/// The packages of an environment.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Manifest {
    /// The package with busybox.
    pub busybox: Package,
    /// The packages with the kernel or its source.
    pub kernel: Vec<Package>,
}

impl Manifest {
    /// What the environment was made of last time, if it was.
    pub fn load(root: &Path, environment: Environment) -> Option<Self> {
        let text = fs::read_to_string(place(root, environment)).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Stores it for the next time.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn store(&self, root: &Path, environment: Environment) -> Result<(), String> {
        let place = place(root, environment);
        cache::make_folder(place.parent().unwrap_or(root))?;
        let text = serde_json::to_string_pretty(self).map_err(|e| e.to_string())?;
        cache::write(&place, text.as_bytes())
    }

    /// The kernel's packages, for display.
    pub fn origin(&self) -> String {
        let words = self
            .kernel
            .iter()
            .map(|p| format!("{} {}", p.name, p.version));
        words.collect::<Vec<_>>().join(", ")
    }

    /// The cache entry of busybox, whether or not it exists.
    pub fn busybox_place(&self, root: &Path, architecture: &Architecture) -> PathBuf {
        let key = key(architecture, std::slice::from_ref(&self.busybox), &[]);
        root.join("busybox").join(key)
    }

    /// The cache entry of the kernel, whether or not it exists. It is made of
    /// the packages and, if it is built, the recipe's files, or else the
    /// selection of modules.
    ///
    /// # Errors
    /// One of the files cannot be read, or there is no kernel to boot.
    pub fn kernel_place(&self, root: &Path, environment: Environment) -> Result<PathBuf, String> {
        let inputs = match environment.kernel {
            Kernel::Built(recipe) => build::inputs(recipe)?,
            Kernel::Packaged(wanted) => vec![wanted.modules.join(" ").into_bytes()],
            Kernel::Host | Kernel::Simulated(_) => return Err("no kernel is booted".into()),
        };
        let key = key(environment.architecture, &self.kernel, &inputs);
        Ok(root.join("kernels").join(key))
    }

    /// The cache entry of the selftests, whether or not it exists. They depend on
    /// the patches, but not on the kernel's configuration.
    ///
    /// # Errors
    /// One of the patches cannot be read.
    pub fn selftests_place(
        &self,
        root: &Path,
        architecture: &Architecture,
        recipe: Recipe,
    ) -> Result<PathBuf, String> {
        let key = key(architecture, &self.kernel, &selftests::inputs(recipe)?);
        Ok(root.join("selftests").join(key))
    }

    /// All cache entries that the environment uses.
    pub fn uses(&self, root: &Path, environment: Environment) -> Vec<PathBuf> {
        let architecture = environment.architecture;
        let mut uses = vec![self.busybox_place(root, architecture)];
        uses.extend(self.kernel_place(root, environment));
        if let Some(recipe) = environment.selftests() {
            uses.extend(self.selftests_place(root, architecture, recipe));
        }
        for package in self.kernel.iter().chain([&self.busybox]) {
            uses.push(root.join("packages").join(package.file()));
        }
        uses
    }
}

/// The name of an entry that is made of packages and further inputs.
fn key(architecture: &Architecture, packages: &[Package], inputs: &[Vec<u8>]) -> String {
    let sums = packages.iter().map(|package| package.sha256.as_bytes());
    let parts = [EDITION, architecture.debian.as_bytes()];
    let parts = parts.into_iter().chain(sums);
    cache::key(parts.chain(inputs.iter().map(Vec::as_slice)))
}

fn place(root: &Path, environment: Environment) -> PathBuf {
    let name = format!("{}.json", environment.name);
    root.join("environments").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::environment::find;

    fn manifest(sum: &str) -> Manifest {
        let package = |name: &str| Package {
            name: name.into(),
            version: "1".into(),
            sha256: sum.repeat(64),
        };
        Manifest {
            busybox: package("busybox-static"),
            kernel: vec![package("linux-source-7.3")],
        }
    }

    #[test]
    fn a_stored_manifest_is_loaded_unchanged() {
        let folder = tempfile::tempdir().expect("a folder");
        let environment = find("debian-6.1").expect("it is known");
        assert_eq!(Manifest::load(folder.path(), environment), None);
        manifest("a")
            .store(folder.path(), environment)
            .expect("written");
        assert_eq!(
            Manifest::load(folder.path(), environment),
            Some(manifest("a"))
        );
    }

    #[test]
    fn a_different_package_or_recipe_is_a_different_kernel() {
        let root = Path::new("/root");
        let place = |sum: &str, name: &str| {
            let environment = find(name).expect("it is known");
            let place = manifest(sum).kernel_place(root, environment);
            place.expect("the recipe is there")
        };
        assert_eq!(place("a", "lab-7.3"), place("a", "lab-7.3"));
        assert_ne!(place("a", "lab-7.3"), place("b", "lab-7.3"));
        assert_ne!(place("a", "lab-7.3"), place("a", "debian-7.3"));
    }

    #[test]
    fn the_simulated_kvm_needs_no_kernel_and_the_selftests_of_the_unpatched_one() {
        let root = Path::new("/root");
        let uses = |name: &str| {
            let environment = find(name).expect("it is known");
            manifest("a").uses(root, environment)
        };
        let (simulated, unpatched) = (uses("simulated"), uses("lab-7.3"));
        assert!(!simulated.iter().any(|p| p.starts_with("/root/kernels")));
        assert!(simulated.iter().any(|p| p.starts_with("/root/selftests")));
        assert!(simulated.iter().all(|path| unpatched.contains(path)));
    }

    #[test]
    fn kernels_that_differ_by_their_configuration_share_their_selftests() {
        let root = Path::new("/root");
        let uses = |name: &str| {
            let environment = find(name).expect("it is known");
            let uses = manifest("a").uses(root, environment);
            let in_folder = |folder: &str| {
                let path = uses.iter().find(|path| path.starts_with(root.join(folder)));
                path.cloned()
            };
            (in_folder("kernels"), in_folder("selftests"))
        };
        let (kernel, selftests) = uses("lab-7.3-private-mmio");
        let (debug_kernel, debug_selftests) = uses("lab-7.3-private-mmio-debug");
        assert_ne!(kernel, debug_kernel);
        assert!(selftests.is_some());
        assert_eq!(selftests, debug_selftests);
        // The patches can change them.
        assert_ne!(selftests, uses("lab-7.3").1);
        assert_eq!(uses("debian-7.3").1, None);
    }
}
