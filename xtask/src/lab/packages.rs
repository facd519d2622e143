// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Selects the Debian packages of a kernel from apt's records: the newest of a
//! line. Pure functions.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

/// One version of a package, as in apt's index.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, in Debian's format.
    pub version: String,
    /// The SHA-256 of the file, in hexadecimal, from the signed index.
    pub sha256: String,
}

impl Package {
    /// The name of its file in the cache.
    pub fn file(&self) -> String {
        format!("{}.deb", self.sha256)
    }
}

/// Reads records as `apt-cache show` prints them. Records without a name, a
/// version or a checksum are skipped.
pub fn parse(records: &str) -> Vec<Package> {
    records.split("\n\n").filter_map(package).collect()
}

fn package(record: &str) -> Option<Package> {
    let field = |name: &str| {
        let value = |line: &str| {
            line.strip_prefix(name)?
                .strip_prefix(": ")
                .map(String::from)
        };
        record.lines().find_map(value)
    };
    let sha256 = field("SHA256")?;
    let is_hash = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then_some(Package {
        name: field("Package")?,
        version: field("Version")?,
        sha256,
    })
}

/// The packages with the newest kernel of a line: the image, and since 7.x the
/// modules, which are a package of their own.
///
/// # Errors
/// There is none of that line, or its modules are missing.
pub fn kernel(packages: &[Package], line: &str, flavour: &str) -> Result<Vec<Package>, String> {
    let of = |prefix: &str| {
        let start = format!("{prefix}{line}.");
        let end = format!("-{flavour}");
        // A further word after a hyphen is another flavour.
        let is_version = |middle: &str| {
            let mut words = middle.split('-').skip(1);
            words.all(|word| word.starts_with(|letter: char| letter.is_ascii_digit()))
        };
        let named = packages.iter().filter(|p| {
            let middle = p.name.strip_prefix(&start);
            middle
                .and_then(|rest| rest.strip_suffix(&end))
                .is_some_and(is_version)
        });
        named.max_by(|a, b| compare(&a.version, &b.version))
    };
    if let Some(binary) = of("linux-binary-") {
        let name = binary.name.replacen("linux-binary-", "linux-modules-", 1);
        let same = |p: &&Package| p.name == name && p.version == binary.version;
        let modules = packages.iter().find(same);
        let modules = modules.ok_or_else(|| format!("{} has no {name}", binary.name))?;
        return Ok(vec![binary.clone(), modules.clone()]);
    }
    match of("linux-image-") {
        Some(image) => Ok(vec![image.clone()]),
        None => Err(format!("apt knows no Debian kernel {line} for {flavour}")),
    }
}

/// The newest version of the package with that name.
///
/// # Errors
/// There is none.
pub fn newest(packages: &[Package], name: &str) -> Result<Package, String> {
    let named = packages.iter().filter(|package| package.name == name);
    let newest = named.max_by(|a, b| compare(&a.version, &b.version));
    newest
        .cloned()
        .ok_or_else(|| format!("apt knows no package {name}"))
}

/// Compares two versions by Debian's policy: the epoch, then the upstream
/// version, then the revision.
pub fn compare(one: &str, other: &str) -> Ordering {
    let (one_epoch, one) = epoch(one);
    let (other_epoch, other) = epoch(other);
    let (one_version, one_revision) = one.rsplit_once('-').unwrap_or((one, "0"));
    let (other_version, other_revision) = other.rsplit_once('-').unwrap_or((other, "0"));
    one_epoch
        .cmp(&other_epoch)
        .then_with(|| compare_part(one_version, other_version))
        .then_with(|| compare_part(one_revision, other_revision))
}

fn epoch(version: &str) -> (u64, &str) {
    let split = version.split_once(':');
    split
        .and_then(|(epoch, rest)| Some((epoch.parse().ok()?, rest)))
        .unwrap_or((0, version))
}

/// Text and numbers alternate, text first.
fn compare_part(mut one: &str, mut other: &str) -> Ordering {
    while !one.is_empty() || !other.is_empty() {
        let (one_text, one_rest) = split_at_end_of(one, |byte| !byte.is_ascii_digit());
        let (other_text, other_rest) = split_at_end_of(other, |byte| !byte.is_ascii_digit());
        let (one_number, one_rest) = split_at_end_of(one_rest, |byte| byte.is_ascii_digit());
        let (other_number, other_rest) = split_at_end_of(other_rest, |byte| byte.is_ascii_digit());
        let order = compare_text(one_text, other_text)
            .then_with(|| compare_number(one_number, other_number));
        if order.is_ne() {
            return order;
        }
        (one, other) = (one_rest, other_rest);
    }
    Ordering::Equal
}

fn split_at_end_of(text: &str, is_in: impl Fn(u8) -> bool) -> (&str, &str) {
    let end = text.bytes().position(|byte| !is_in(byte));
    text.split_at_checked(end.unwrap_or(text.len()))
        .unwrap_or((text, ""))
}

/// A tilde sorts before the end, letters before everything else.
fn compare_text(one: &str, other: &str) -> Ordering {
    let weight = |byte: Option<u8>| match byte {
        Some(b'~') => -1,
        None => 0,
        Some(letter) if letter.is_ascii_alphabetic() => i32::from(letter),
        Some(sign) => i32::from(sign) + 256,
    };
    let length = one.len().max(other.len());
    let weights = |text: &str| -> Vec<i32> {
        let bytes = text.as_bytes();
        (0..length)
            .map(|at| weight(bytes.get(at).copied()))
            .collect()
    };
    weights(one).cmp(&weights(other))
}

/// Numbers of any length. Without leading zeros, the longer one is larger.
fn compare_number(one: &str, other: &str) -> Ordering {
    let (one, other) = (one.trim_start_matches('0'), other.trim_start_matches('0'));
    one.len().cmp(&other.len()).then_with(|| one.cmp(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, version: &str) -> String {
        let sum = "0123456789abcdef".repeat(4);
        format!("Package: {name}\nSource: linux\nVersion: {version}\nSHA256: {sum}\n")
    }

    fn index(records: &[(&str, &str)]) -> Vec<Package> {
        let records = records.iter().map(|(name, version)| record(name, version));
        parse(&records.collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn versions_are_ordered_as_debian_does() {
        let rising = [
            "6.1.99-1",
            "6.1.192-1",
            "6.1.192-2",
            "6.12.117-1~deb12u1",
            "6.12.117-1",
            "6.12.117-1+b1",
            "7.3~rc4-1~exp1",
            "7.3-1",
            "7.3.4-1~bpo13+1",
            "7.3.4-1",
            "1:1.0-1",
        ];
        for (at, one) in rising.iter().enumerate() {
            for (other_at, other) in rising.iter().enumerate() {
                assert_eq!(compare(one, other), at.cmp(&other_at), "{one} and {other}");
            }
        }
        assert_eq!(compare("1.02", "1.2-0"), Ordering::Equal);
    }

    #[test]
    fn the_newest_of_a_line_is_chosen_and_no_other_line_flavour_or_debug_package() {
        let packages = index(&[
            ("linux-image-6.1.0-55-cloud-amd64", "6.1.192-1"),
            ("linux-image-6.1.0-56-cloud-amd64", "6.1.192-2"),
            ("linux-image-6.1.0-57-cloud-amd64-dbg", "6.1.193-1"),
            ("linux-image-6.1.0-57-rt-amd64", "6.1.193-1"),
            ("linux-image-6.12.117+deb13-cloud-amd64", "6.12.117-1"),
        ]);
        let chosen = kernel(&packages, "6.1", "cloud-amd64").expect("there is one");
        assert_eq!(chosen.len(), 1);
        assert_eq!(chosen[0].name, "linux-image-6.1.0-56-cloud-amd64");
        let none = kernel(&packages, "6.12", "amd64").expect_err("only the cloud flavour");
        assert!(none.contains("6.12 for amd64"), "{none}");
        let error = kernel(&packages, "7.3", "cloud-amd64").expect_err("there is none");
        assert!(error.contains("7.3"), "{error}");
    }

    #[test]
    fn a_kernel_in_two_packages_needs_both_in_the_same_version() {
        let binary = ("linux-binary-7.3.4+deb13-cloud-amd64", "7.3.4-1~bpo13+1");
        let image = ("linux-image-7.3.4+deb13-cloud-amd64", "7.3.4-1~bpo13+1");
        let modules = "linux-modules-7.3.4+deb13-cloud-amd64";
        let both = index(&[image, binary, (modules, binary.1)]);
        let chosen = kernel(&both, "7.3", "cloud-amd64").expect("both are there");
        let names: Vec<&str> = chosen.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, [binary.0, modules]);
        for rest in [
            index(&[image, binary]),
            index(&[binary, (modules, "7.3.3-1")]),
        ] {
            assert!(kernel(&rest, "7.3", "cloud-amd64").is_err());
        }
    }

    #[test]
    fn a_record_without_a_checksum_is_skipped() {
        let records = "Package: a\nVersion: 1\n\nPackage: b\nVersion: 1\nSHA256: 12\n";
        assert_eq!(parse(records), []);
        let whole = record("linux-source-7.3", "7.3.4-1");
        let found = newest(&parse(&whole), "linux-source-7.3").expect("it is whole");
        assert_eq!(found.version, "7.3.4-1");
    }
}
