// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Prepares an environment's kernel and busybox: from the cache, downloaded, or
//! built.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::apt::Apt;
use super::architecture::ARCHITECTURES;
use super::build::Builder;
use super::cache::files;
use super::cache::{self, Cache};
use super::doctor;
use super::environment::{CONFIDENTIAL_GUEST, Environment, Kernel, Recipe, Selection};
use super::manifest::Manifest;
use super::modules;
use super::obstacle::Obstacle;
use super::packages::{self, Package};
use super::selftests;
use crate::shell;

/// The package with a statically linked busybox.
const BUSYBOX: &str = "busybox-static";

/// Everything that is needed to boot an environment.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The environment.
    pub environment: Environment,
    /// The packages that it is made of, for display.
    pub origin: String,
    /// The kernel.
    pub image: PathBuf,
    /// Its modules in the order of loading. Empty if all are built in.
    pub modules: Vec<PathBuf>,
    /// A static busybox.
    pub busybox: PathBuf,
    /// The folder of its selftests, or why there are none.
    pub selftests: Result<PathBuf, Obstacle>,
}

impl Ready {
    /// The packages that it is made of, for display.
    ///
    /// # Errors
    /// Its selftests do not build.
    pub fn without_faults(self) -> Result<String, Obstacle> {
        match self.selftests {
            Err(obstacle) if obstacle.is_fault() => Err(obstacle),
            _ => Ok(self.origin),
        }
    }
}

/// The selftests that run with a preloaded library.
#[derive(Clone, Debug)]
pub struct Preloaded {
    /// Their folder.
    pub folder: PathBuf,
    /// The packages that they are made of, for display.
    pub origin: String,
    /// Keeps the cache's entries for as long as this lives.
    _hold: Arc<File>,
}

/// Prepares environments.
#[derive(Debug)]
pub struct Lab<'a> {
    /// The cache.
    pub cache: &'a Cache,
    /// The sources of packages, one for each architecture.
    pub apts: [Apt<'a>; ARCHITECTURES.len()],
    /// Builds what no package has.
    pub builder: Builder,
}

impl Lab<'_> {
    /// Prepares an environment, from the newest packages or, if they are not
    /// available, from those of last time.
    ///
    /// # Errors
    /// The reason why it is not available.
    pub fn ready(&self, environment: Environment) -> Result<Ready, Obstacle> {
        self.newest_or_last(environment, |manifest| self.make(environment, manifest))
    }

    /// Prepares the selftests that run with a preloaded library, from the same
    /// packages, without a kernel.
    ///
    /// # Errors
    /// The reason why they are not available.
    pub fn preloaded(
        &self,
        environment: Environment,
        recipe: Recipe,
    ) -> Result<Preloaded, Obstacle> {
        self.newest_or_last(environment, |manifest| {
            let entry = self.selftests_entry(environment, recipe, manifest)?;
            manifest.store(self.cache.root(), environment)?;
            Ok(Preloaded {
                folder: selftests::preloaded(&entry),
                origin: manifest.origin(),
                _hold: Arc::new(self.cache.hold()?),
            })
        })
    }

    /// The source of an environment's packages.
    fn apt(&self, environment: Environment) -> Result<&Apt<'_>, Obstacle> {
        let own = |apt: &&Apt<'_>| apt.architecture() == environment.architecture;
        let none = || {
            let name = environment.name;
            Obstacle::Missing(format!("no packages are known for {name}"))
        };
        self.apts.iter().find(own).ok_or_else(none)
    }

    fn newest_or_last<T>(
        &self,
        environment: Environment,
        make: impl Fn(&Manifest) -> Result<T, Obstacle>,
    ) -> Result<T, Obstacle> {
        let newest = self
            .apt(environment)?
            .pick(|known| self.choose(environment, known));
        let newest = newest.map_err(Obstacle::Missing);
        newest_or(newest.and_then(|manifest| make(&manifest)), |error| {
            let manifest = Manifest::load(self.cache.root(), environment)?;
            eprintln!("xtask: lab: {}: {error}", environment.name);
            eprintln!("xtask: lab: the packages of last time are used");
            Some(make(&manifest))
        })
    }

    /// Prepares the kernel of confidential guests: a bzImage.
    ///
    /// # Errors
    /// The reason why it is not available.
    pub fn guest_kernel(&self) -> Result<PathBuf, Obstacle> {
        Ok(self.ready(CONFIDENTIAL_GUEST)?.image)
    }

    /// The newest packages for an environment.
    fn choose(&self, environment: Environment, known: &[Package]) -> Result<Manifest, String> {
        let kernel = match environment.kernel {
            Kernel::Host => return Err("the host is there without packages".into()),
            Kernel::Packaged(wanted) => packages::kernel(known, wanted.line, wanted.flavour)?,
            Kernel::Built(recipe) | Kernel::Simulated(recipe) => {
                let name = format!("linux-source-{}", recipe.line);
                vec![packages::newest(known, &name)?]
            }
        };
        Ok(Manifest {
            busybox: packages::newest(known, BUSYBOX)?,
            kernel,
        })
    }

    fn make(&self, environment: Environment, manifest: &Manifest) -> Result<Ready, Obstacle> {
        let (root, architecture) = (self.cache.root(), environment.architecture);
        let busybox = manifest.busybox_place(root, architecture);
        let package = std::slice::from_ref(&manifest.busybox);
        self.fill(environment, &busybox, package, |debs, to| {
            Ok(unpack_busybox(debs, to)?)
        })?;
        let kernel = manifest.kernel_place(root, environment)?;
        self.fill(
            environment,
            &kernel,
            &manifest.kernel,
            |debs, to| match environment.kernel {
                Kernel::Host | Kernel::Simulated(_) => Err("no kernel is booted".into()),
                Kernel::Packaged(wanted) => Ok(unpack_kernel(debs, wanted, to)?),
                Kernel::Built(recipe) => {
                    self.builder
                        .build(self.cache, architecture, recipe, debs, to)
                }
            },
        )?;
        manifest.store(root, environment)?;
        Ok(Ready {
            environment,
            origin: manifest.origin(),
            image: kernel.join("image"),
            modules: files(&kernel.join("modules")),
            busybox: busybox.join("busybox"),
            selftests: self.selftests(environment, manifest),
        })
    }

    /// The selftests of an environment's kernel. An environment without them can run
    /// everything else.
    fn selftests(
        &self,
        environment: Environment,
        manifest: &Manifest,
    ) -> Result<PathBuf, Obstacle> {
        let recipe = environment.selftests().ok_or_else(|| {
            let only = "selftests are built for the lab's own kernels only";
            Obstacle::Missing(only.into())
        })?;
        let entry = self.selftests_entry(environment, recipe, manifest);
        entry.inspect_err(|error| {
            let name = environment.name;
            eprintln!("xtask: lab: {name}: its kernel's selftests are missing: {error}");
        })
    }

    /// The cache entry with the selftests of a source.
    fn selftests_entry(
        &self,
        environment: Environment,
        recipe: Recipe,
        manifest: &Manifest,
    ) -> Result<PathBuf, Obstacle> {
        let place =
            manifest.selftests_place(self.cache.root(), environment.architecture, recipe)?;
        if !place.exists() {
            doctor::can_build_selftests().map_err(Obstacle::Missing)?;
        }
        self.fill(environment, &place, &manifest.kernel, |debs, to| {
            selftests::build(self.builder, self.cache, recipe, debs, to)
        })?;
        Ok(place)
    }

    /// Fills an entry of the cache from packages, unless it exists.
    fn fill(
        &self,
        environment: Environment,
        place: &Path,
        packages: &[Package],
        make: impl FnOnce(&[PathBuf], &Path) -> Result<(), Obstacle>,
    ) -> Result<(), Obstacle> {
        if place.exists() {
            return Ok(());
        }
        doctor::can_make(environment).map_err(Obstacle::Missing)?;
        let apt = self.apt(environment)?;
        let debs = packages.iter().map(|package| apt.fetch(package));
        let debs: Vec<PathBuf> = debs.collect::<Result<_, _>>().map_err(Obstacle::Missing)?;
        cache::make_folder(place.parent().unwrap_or(place))?;
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        let scratch = self.cache.scratch(&name)?;
        make(&debs, &scratch)?;
        Ok(self.cache.finish(&scratch, place)?)
    }
}

/// What is made of the newest packages or, if these are missing, what `last` makes, if
/// there were others last time. Older packages do not hide a fault.
fn newest_or<T>(
    newest: Result<T, Obstacle>,
    last: impl FnOnce(&str) -> Option<Result<T, Obstacle>>,
) -> Result<T, Obstacle> {
    match newest {
        Err(Obstacle::Missing(error)) => {
            last(&error).unwrap_or_else(|| Err(Obstacle::Missing(error)))
        }
        made => made,
    }
}

fn unpack_busybox(debs: &[PathBuf], to: &Path) -> Result<(), String> {
    let tree = to.join("tree");
    unpack(debs, &tree)?;
    let places = [tree.join("usr/bin/busybox"), tree.join("bin/busybox")];
    let file = places.iter().find(|place| place.exists());
    let file = file.ok_or("its package has no busybox")?;
    fs::rename(file, to.join("busybox")).map_err(|e| cache::at(file, &e))?;
    cache::remove(&tree)
}

/// Unpacks the image and the needed modules from Debian's packages.
fn unpack_kernel(debs: &[PathBuf], wanted: Selection, to: &Path) -> Result<(), String> {
    let tree = to.join("tree");
    unpack(debs, &tree)?;
    let roots = [tree.join("usr/lib/modules"), tree.join("lib/modules")];
    let root = roots.iter().find(|root| root.exists());
    let root = root.ok_or("the kernel's packages have no modules")?;
    // Newer packages have the image next to the modules.
    let images = files(&tree.join("boot"));
    let beside = files(root).into_iter().map(|folder| folder.join("vmlinuz"));
    let is_image = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("vmlinuz") && path.exists()
    };
    let image = images.into_iter().chain(beside).find(is_image);
    let image = image.ok_or("the kernel's packages have no image")?;
    fs::rename(&image, to.join("image")).map_err(|e| cache::at(&image, &e))?;
    if !wanted.modules_are_optional {
        modules::check(root, wanted.modules)?;
    }
    modules::collect(root, wanted.modules, &to.join("modules"))?;
    cache::remove(&tree)
}

/// Unpacks packages without running their scripts.
fn unpack(debs: &[PathBuf], to: &Path) -> Result<(), String> {
    cache::make_folder(to)?;
    for deb in debs {
        shell::capture(Command::new("dpkg-deb").arg("-x").arg(deb).arg(to))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packages_of_last_time_are_used_only_if_the_newest_are_missing() {
        let missing = || Err(Obstacle::Missing("no network".into()));
        assert_eq!(newest_or(Ok("new"), |_| panic!("not needed")), Ok("new"));
        assert_eq!(newest_or(missing(), |_| Some(Ok("old"))), Ok("old"));
        assert_eq!(newest_or::<&str>(missing(), |_| None), missing());
        for obstacle in [
            Obstacle::Fault("0001.patch does not apply".into()),
            Obstacle::TooLong("25 minutes".into()),
        ] {
            let made = newest_or(Err(obstacle.clone()), |_| Some(Ok("old")));
            assert_eq!(made, Err(obstacle));
        }
    }
}
