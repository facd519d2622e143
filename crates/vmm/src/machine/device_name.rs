// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The names of real devices in machine files.

use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use vfio_private::device::PciAddress;

use super::spec::DeviceName;

/// A text that names no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is neither an address, such as 0000:01:00.0, nor vendor and device, such as 8086:10d3"
)]
pub struct ParseDeviceNameError(String);

impl FromStr for DeviceName {
    type Err = ParseDeviceNameError;

    fn from_str(text: &str) -> Result<Self, ParseDeviceNameError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::At(address));
        }
        let is_digit = |byte: u8| byte.is_ascii_hexdigit();
        let id = |digits: &str| match digits.len() == 4 && digits.bytes().all(is_digit) {
            true => u16::from_str_radix(digits, 16).ok(),
            false => None,
        };
        let ids = text.split_once(':');
        let ids = ids.and_then(|(vendor, device)| Some((id(vendor)?, id(device)?)));
        match ids {
            Some((vendor, device)) => Ok(Self::Model { vendor, device }),
            None => Err(ParseDeviceNameError(text.into())),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Model { vendor, device } => write!(f, "{vendor:04x}:{device:04x}"),
        }
    }
}

impl DeviceName {
    /// The device's address: the first one that is bound to vfio-pci.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn find(self) -> Result<PciAddress, String> {
        self.find_in(Path::new("/sys"))
    }

    fn find_in(self, sysfs: &Path) -> Result<PciAddress, String> {
        let (vendor, device) = match self {
            Self::At(address) => return Ok(address),
            Self::Model { vendor, device } => (vendor, device),
        };
        let folder = sysfs.join("bus/pci/drivers/vfio-pci");
        let entries = fs::read_dir(folder).map_err(|_| "there is no driver vfio-pci")?;
        let is_one = |path: &Path| {
            let has = |file: &str, id: u16| {
                let text = fs::read_to_string(path.join(file));
                text.is_ok_and(|text| text.trim() == format!("{id:#06x}"))
            };
            has("vendor", vendor) && has("device", device)
        };
        let entries = entries.flatten().filter(|entry| is_one(&entry.path()));
        let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
        names.sort();
        let mut found = names.iter().filter_map(|name| name.to_str()?.parse().ok());
        found
            .next()
            .ok_or_else(|| format!("no device {self} is bound to vfio-pci"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_by_address_or_by_vendor_and_type() {
        for text in ["0000:01:00.0", "1234:11e8"] {
            let name: DeviceName = text.parse().expect("a name");
            assert_eq!(name.to_string(), text);
        }
        for text in ["", "edu", "1234", "1234:11e", "12345:11e8", "1234:+1e8"] {
            assert!(text.parse::<DeviceName>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_first_device_of_its_type_that_vfio_pci_has_is_found() {
        let sysfs = tempfile::tempdir().expect("a folder");
        let folder = sysfs.path().join("bus/pci/drivers/vfio-pci");
        for (name, device) in [("0000:00:03.0", "0x11e8"), ("0000:00:02.0", "0x11e8")] {
            let device_folder = folder.join(name);
            fs::create_dir_all(&device_folder).expect("a folder");
            fs::write(device_folder.join("vendor"), "0x1234\n").expect("a file");
            fs::write(device_folder.join("device"), format!("{device}\n")).expect("a file");
        }
        fs::write(folder.join("bind"), "").expect("a file");
        let edu: DeviceName = "1234:11e8".parse().expect("a name");
        let found = edu.find_in(sysfs.path()).expect("it is there");
        assert_eq!(found.to_string(), "0000:00:02.0");
        let other: DeviceName = "1234:11e9".parse().expect("a name");
        let why = other.find_in(sysfs.path()).expect_err("it is not");
        assert!(why.contains("1234:11e9"), "{why}");
    }
}
