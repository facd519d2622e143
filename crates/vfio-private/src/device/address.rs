// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The address of a PCI device, and the files that VFIO has for it.

use core::fmt;
use core::str::FromStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::error::DeviceError;

/// Domain, bus, device and function: `0000:01:00.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl PciAddress {
    /// The function with these numbers; `None` if `device` is above 31 or `function` above 7.
    ///
    /// A domain has more than 16 bits where it is behind a bridge that Linux numbers itself.
    pub const fn new(domain: u32, bus: u8, device: u8, function: u8) -> Option<Self> {
        if device > 31 || function > 7 {
            return None;
        }
        Some(Self {
            domain,
            bus,
            device,
            function,
        })
    }

    /// The device's folder in sysfs.
    fn folder(self, sysfs: &Path) -> PathBuf {
        sysfs.join("bus/pci/devices").join(self.to_string())
    }

    /// The number of its IOMMU group, which is its file's name in `/dev/vfio`.
    pub(super) fn group(self, sysfs: &Path) -> Result<u32, DeviceError> {
        let link = self.folder(sysfs).join("iommu_group");
        let target = fs::read_link(&link).map_err(|error| self.missing(sysfs, &link, &error))?;
        let name = target.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.parse().ok());
        number.ok_or(DeviceError::NoGroup { address: self })
    }

    /// The name of its file in `/dev/vfio/devices`.
    pub(super) fn cdev(self, sysfs: &Path) -> Result<String, DeviceError> {
        let folder = self.folder(sysfs).join("vfio-dev");
        let entries = fs::read_dir(&folder).map_err(|e| self.missing(sysfs, &folder, &e))?;
        let mut names = entries.flatten().map(|entry| entry.file_name());
        let name = names.next().and_then(|name| name.into_string().ok());
        name.ok_or(DeviceError::NoCdev { address: self })
    }

    /// Why what should be in the device's folder is not there.
    fn missing(self, sysfs: &Path, path: &Path, error: &std::io::Error) -> DeviceError {
        if error.kind() != ErrorKind::NotFound {
            return DeviceError::open(path, error);
        }
        if !self.folder(sysfs).exists() {
            return DeviceError::NoDevice { address: self };
        }
        match path.ends_with("iommu_group") {
            true => DeviceError::NoGroup { address: self },
            false => DeviceError::NoCdev { address: self },
        }
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04x}:{:02x}:{:02x}.{}",
            self.domain, self.bus, self.device, self.function
        )
    }
}

/// A text that is no PCI address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a PCI address like 0000:01:00.0")]
pub struct ParseAddressError;

/// As sysfs names a device, with its domain.
impl FromStr for PciAddress {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        let parse = || {
            let (domain, rest) = text.split_once(':')?;
            let (bus, rest) = rest.split_once(':')?;
            let (device, function) = rest.split_once('.')?;
            let digits = |text: &str, least: usize, most: usize| {
                let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
                let fits = (least..=most).contains(&text.len());
                u32::from_str_radix(text, 16)
                    .ok()
                    .filter(|_| is_hex && fits)
            };
            let byte = |text, len| u8::try_from(digits(text, len, len)?).ok();
            Self::new(
                digits(domain, 4, 8)?,
                byte(bus, 2)?,
                byte(device, 2)?,
                byte(function, 1)?,
            )
        };
        parse().ok_or(ParseAddressError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_sysfs_writes_it() {
        for text in ["0000:00:00.0", "0000:01:1f.7", "10000:e1:00.0"] {
            let address: PciAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
        for text in [
            "",
            "01:00.0",
            "0000:01:00",
            "0000:01:20.0",
            "0000:01:00.8",
            "0000:+1:00.0",
            "000000000:01:00.0",
            "0000:01:00.0 ",
        ] {
            assert_eq!(text.parse::<PciAddress>(), Err(ParseAddressError), "{text}");
        }
    }

    #[test]
    fn group_and_file_are_found_in_sysfs_and_what_is_missing_is_named() {
        let sysfs = tempfile::tempdir().unwrap();
        let address = PciAddress::new(0, 1, 0, 0).unwrap();
        let absent = DeviceError::NoDevice { address };
        assert_eq!(address.group(sysfs.path()), Err(absent.clone()));
        assert_eq!(address.cdev(sysfs.path()), Err(absent));

        let folder = address.folder(sysfs.path());
        fs::create_dir_all(&folder).unwrap();
        let (no_group, no_cdev) = (
            DeviceError::NoGroup { address },
            DeviceError::NoCdev { address },
        );
        assert_eq!(address.group(sysfs.path()), Err(no_group));
        assert_eq!(address.cdev(sysfs.path()), Err(no_cdev));

        let groups = "../../../kernel/iommu_groups/17";
        std::os::unix::fs::symlink(groups, folder.join("iommu_group")).unwrap();
        fs::create_dir_all(folder.join("vfio-dev/vfio3")).unwrap();
        assert_eq!(address.group(sysfs.path()), Ok(17));
        assert_eq!(address.cdev(sysfs.path()).as_deref(), Ok("vfio3"));
    }
}
