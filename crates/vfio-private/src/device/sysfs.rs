// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The files that VFIO has for a PCI device, by its folder in sysfs.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::address::PciAddress;
use super::error::DeviceError;

impl PciAddress {
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

#[cfg(test)]
mod tests {
    use super::*;

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
