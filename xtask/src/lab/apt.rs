// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Downloads from Debian's archive with apt, also from suites that this machine
//! does not use. apt gets a source list, indexes and a state of its own. It
//! verifies signatures as always. The machine's configuration is not changed,
//! and provides the archive's address.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::architecture::Architecture;
use super::cache::{self, Cache};
use super::packages::{self, Package};
use crate::shell;

/// The suites with kernels: of the archive, and of its security updates.
const SUITES: [(&str, Archive); 5] = [
    ("bookworm", Archive::Main),
    ("bookworm-security", Archive::Security),
    ("trixie", Archive::Main),
    ("trixie-security", Archive::Security),
    ("trixie-backports", Archive::Main),
];

/// The archive's keys, as Debian's package installs them.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

/// How long the indexes are used before they are renewed.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// The packages that are used, as a pattern of names.
const WANTED: &str = "^(linux-(image|binary|modules|source)-[0-9].*|busybox-static)$";

/// The address of a suite: the archive or its security updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Archive {
    Main,
    Security,
}

/// Whether the network may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Renew indexes once a day, and download what is missing.
    Daily,
    /// Renew indexes now.
    Now,
    /// Use only the cache.
    Offline,
}

/// apt with indexes of its own.
#[derive(Debug)]
pub struct Apt<'a> {
    cache: &'a Cache,
    architecture: &'static Architecture,
    network: Network,
    known: OnceCell<Result<Index, String>>,
}

/// What apt knows.
#[derive(Clone, Debug)]
struct Index {
    packages: Vec<Package>,
    /// The error of renewing the indexes, if any.
    complaint: Option<String>,
}

impl<'a> Apt<'a> {
    /// Prepares apt. It is not called before its packages are needed.
    pub fn new(cache: &'a Cache, architecture: &'static Architecture, network: Network) -> Self {
        Self {
            cache,
            architecture,
            network,
            known: OnceCell::new(),
        }
    }

    /// The architecture of its packages.
    pub fn architecture(&self) -> &'static Architecture {
        self.architecture
    }

    /// Picks from the packages that apt knows. On failure, the error includes
    /// apt's own.
    ///
    /// # Errors
    /// apt fails, or `pick` finds nothing.
    pub fn pick<T>(&self, pick: impl Fn(&[Package]) -> Result<T, String>) -> Result<T, String> {
        let index = self.known.get_or_init(|| self.index()).as_ref()?;
        pick(&index.packages).map_err(|error| match &index.complaint {
            Some(complaint) => format!("{error}; {complaint}"),
            None => error,
        })
    }

    /// The package's file, downloaded unless it is in the cache. Its checksum
    /// is checked against the signed index.
    ///
    /// # Errors
    /// The file cannot be downloaded, or its checksum is wrong.
    pub fn fetch(&self, package: &Package) -> Result<PathBuf, String> {
        let place = self.cache.folder("packages")?;
        let place = place.join(package.file());
        if place.exists() && cache::hash_of_file(&place)? == package.sha256 {
            return Ok(place);
        }
        cache::remove(&place)?;
        let what = format!("{} {}", package.name, package.version);
        if self.network == Network::Offline {
            return Err(format!(
                "{what} is not in the cache, and this run is offline"
            ));
        }
        eprintln!("xtask: lab: downloading {what}");
        let scratch = self.cache.scratch("download")?;
        let mut command = self.command("apt-get")?;
        command.arg("download").current_dir(&scratch);
        command.arg(format!("{}={}", package.name, package.version));
        shell::must(&mut command).map_err(|e| format!("{what} cannot be downloaded: {e}"))?;
        let mut files = fs::read_dir(&scratch).into_iter().flatten().flatten();
        let file = files.next().map(|entry| entry.path());
        let file = file.ok_or_else(|| format!("{what} was not downloaded"))?;
        let hash = cache::hash_of_file(&file)?;
        if hash != package.sha256 {
            return Err(format!("{what} has SHA-256 {hash}, not {}", package.sha256));
        }
        self.cache.finish(&file, &place)?;
        Ok(place)
    }

    /// The folder of the architecture's indexes.
    fn folder(&self) -> Result<PathBuf, String> {
        self.cache
            .folder(&format!("apt/{}", self.architecture.debian))
    }

    fn index(&self) -> Result<Index, String> {
        let folder = self.folder()?;
        let stamp = folder.join("renewed");
        let age = fs::metadata(&stamp).and_then(|meta| meta.modified()).ok();
        let age = age.and_then(|time| time.elapsed().ok());
        let complaint = match self.network {
            Network::Offline if age.is_none() => {
                return Err("apt's indexes are not in the cache, and this run is offline".into());
            }
            Network::Offline => None,
            Network::Daily if age.is_some_and(|age| age < FRESH) => None,
            Network::Daily | Network::Now => self.renew(&folder, &stamp)?,
        };
        let mut command = self.command("apt-cache")?;
        command.args(["search", "--names-only", "--full", WANTED]);
        Ok(Index {
            packages: packages::parse(&shell::capture(&mut command)?),
            complaint,
        })
    }

    /// Renews the indexes. On failure, keeps the old ones and returns the
    /// error.
    fn renew(&self, folder: &Path, stamp: &Path) -> Result<Option<String>, String> {
        eprintln!(
            "xtask: lab: asking apt for Debian's newest kernels, for {}",
            self.architecture.debian
        );
        for name in ["lists/partial", "cache/archives/partial"] {
            cache::make_folder(&folder.join(name))?;
        }
        cache::write(&folder.join("status"), b"")?;
        cache::write(&folder.join("sources.list"), source_list()?.as_bytes())?;
        let mut command = self.command("apt-get")?;
        command.args(["update", "-q", "-o", "APT::Update::Error-Mode=any"]);
        match shell::capture(&mut command) {
            Ok(_) => {
                cache::write(stamp, b"")?;
                Ok(None)
            }
            Err(error) => {
                let complaint = format!("apt's indexes could not be renewed: {error}");
                eprintln!("xtask: lab: {complaint}");
                Ok(Some(complaint))
            }
        }
    }

    /// apt with folders of the cache instead of the machine's.
    fn command(&self, program: &str) -> Result<Command, String> {
        let folder = self.folder()?;
        let mut command = Command::new(program);
        let mut option = |option: String| {
            command.args(["-o", &option]);
        };
        for (name, place) in [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::State::Lists", "lists"),
            ("Dir::State::status", "status"),
            ("Dir::Cache", "cache"),
        ] {
            option(format!("{name}={}", folder.join(place).display()));
        }
        let architecture = self.architecture.debian;
        option(format!("APT::Architecture={architecture}"));
        option(format!("APT::Architectures={architecture}"));
        for fixed in [
            "Dir::Etc::sourceparts=/dev/null",
            "Dir::Etc::preferences=/dev/null",
            "Dir::Etc::preferencesparts=/dev/null",
            // apt's own user cannot access the cache.
            "APT::Sandbox::User=root",
            "Acquire::Languages=none",
            "Acquire::Retries=1",
            "Acquire::http::Timeout=20",
            "Acquire::https::Timeout=20",
        ] {
            option(fixed.to_string());
        }
        Ok(command)
    }
}

/// The source list for the suites, at the addresses in the machine's
/// configuration.
///
/// # Errors
/// apt is not configured for Debian's archive, or the keys are not installed.
pub fn source_list() -> Result<String, String> {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(RELEASE) $(REPO_URI)"]);
    let targets = shell::capture(&mut command)?;
    let keyring = KEYRINGS.into_iter().find(|path| Path::new(path).exists());
    let keyring =
        keyring.ok_or("Debian's archive keys are not installed: debian-archive-keyring")?;
    list(&targets, keyring)
}

/// One line per suite, from apt's configuration: release and address.
fn list(targets: &str, keyring: &str) -> Result<String, String> {
    let suite = |archive| SUITES.iter().filter(move |(_, of)| *of == archive);
    let address = |archive| {
        // Any Debian release will do: all are at the same address.
        let is_of = |release: &str| match archive {
            Archive::Main => suite(Archive::Main).any(|(name, _)| release == *name),
            Archive::Security => suite(Archive::Security).any(|(name, _)| release == *name),
        };
        let pairs = targets.lines().filter_map(|line| line.split_once(' '));
        let mut ours = pairs.filter(|(release, uri)| is_of(release) && !uri.contains(' '));
        ours.next().map(|(_, uri)| uri)
    };
    let main = address(Archive::Main).ok_or(
        "apt is not set up for an archive of Debian's with bookworm or trixie, \
         where the kernels are, or has not asked it yet: apt-get update",
    )?;
    let mut list = String::new();
    for (name, archive) in SUITES {
        let uri = match archive {
            Archive::Main => Some(main),
            Archive::Security => address(Archive::Security),
        };
        // Without security updates, the newest kernel is slightly older.
        if let Some(uri) = uri {
            list += &format!("deb [signed-by={keyring}] {uri} {name} main\n");
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::architecture::X86_64;

    #[test]
    fn the_suites_are_listed_at_the_addresses_that_apt_has() {
        let targets = "nodistro https://else.example/\n\
                       bookworm http://mirror.example/debian/\n\
                       bookworm-updates http://mirror.example/debian/\n\
                       bookworm-security http://other.example/security/\n";
        let list = list(targets, "/keys").expect("a list");
        let lines: Vec<&str> = list.lines().collect();
        assert_eq!(lines.len(), SUITES.len());
        assert_eq!(
            lines[0],
            "deb [signed-by=/keys] http://mirror.example/debian/ bookworm main"
        );
        let security = "deb [signed-by=/keys] http://other.example/security/ trixie-security main";
        assert!(lines.contains(&security), "{list}");
        assert!(!list.contains("else"), "{list}");
    }

    #[test]
    fn without_a_security_archive_the_others_are_listed() {
        let list = list("trixie http://mirror.example/debian/\n", "/keys").expect("a list");
        assert!(list.contains(" trixie-backports main"), "{list}");
        assert!(!list.contains("-security"), "{list}");
    }

    #[test]
    fn a_cached_package_is_used_offline_unless_its_content_differs() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::at(folder.path()).expect("a cache");
        let apt = Apt::new(&cache, &X86_64, Network::Offline);
        let good = folder.path().join("good");
        cache::write(&good, b"whole").expect("written");
        let package = Package {
            name: "linux-source-7.3".into(),
            version: "7.3.4-1".into(),
            sha256: cache::hash_of_file(&good).expect("a hash"),
        };
        let place = cache.folder("packages").expect("a folder");
        let place = place.join(package.file());
        cache::write(&place, b"damaged").expect("written");
        let error = apt.fetch(&package).expect_err("it is damaged");
        assert!(error.contains("not in the cache"), "{error}");
        assert!(!place.exists(), "what is damaged is removed");
        cache::write(&place, b"whole").expect("written");
        assert_eq!(apt.fetch(&package), Ok(place));
    }

    #[test]
    fn a_machine_without_debians_archive_is_an_error() {
        let error = list("noble http://mirror.example/ubuntu/\n", "/keys").expect_err("no Debian");
        assert!(error.contains("not set up"), "{error}");
    }
}
