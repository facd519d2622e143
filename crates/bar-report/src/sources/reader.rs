// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reads the description of a device in any supported form.

use std::path::Path;

use vfio_private::config::ConfigSpace;

use crate::bdf::Bdf;
use crate::error::{BarReportError, Fault};
use crate::facts::DeviceFacts;
use crate::sources::{config_space, file, lspci, sysfs};
use crate::wording::Wording;

/// The largest text of `lspci` that is read: output for some thousand devices with their complete
/// configuration space.
const MAX_TEXT: u64 = 16 << 20;

/// Reads the description of a device.
///
/// Errors begin with the `name` of the input: a file name, or any name that the reader of the error
/// recognizes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reader {
    wording: Wording,
}

impl Reader {
    /// Creates a reader with the default [`Wording`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a reader whose errors and notes call the inputs by the names in `wording`. This also
    /// applies to everything created from the facts that it reads.
    pub const fn with_wording(wording: Wording) -> Self {
        Self { wording }
    }

    /// Reads the output of `lspci -vv`, with or without the dump that `-x` to `-xxxx` add, as
    /// people paste it: quoted in a mail, without the first line, or with one device twice.
    ///
    /// If the text has several devices, `device` selects one.
    ///
    /// # Errors
    /// [`BarReportError::Line`] if a line that may state a fact about BARs or MSI-X was not
    /// understood, contradicts another line, or may be missing. Other variants if the text as a
    /// whole or its dump is invalid.
    pub fn lspci(
        &self,
        name: &str,
        text: &str,
        device: Option<Bdf>,
    ) -> Result<DeviceFacts, BarReportError> {
        lspci::facts(name, text, device, self.wording)
    }

    /// Reads 64, 256 or 4096 bytes of configuration space.
    ///
    /// # Errors
    /// [`BarReportError::Config`] if the bytes are invalid.
    pub fn config_space(&self, name: &str, bytes: &[u8]) -> Result<DeviceFacts, BarReportError> {
        config_space::facts(name, bytes, self.wording)
    }

    /// Reads text, or else the bytes of configuration space. `device` applies only to text.
    ///
    /// # Errors
    /// The errors of [`Reader::lspci`] and [`Reader::config_space`]; also if the bytes are neither.
    pub fn bytes(
        &self,
        name: &str,
        bytes: &[u8],
        device: Option<Bdf>,
    ) -> Result<DeviceFacts, BarReportError> {
        match file::not_of_text(bytes) {
            _ if bytes.is_empty() => {
                let what = "it is empty".into();
                let file = name.into();
                Err(BarReportError::File { file, what })
            }
            None => self.lspci(name, &String::from_utf8_lossy(bytes), device),
            Some(_) if ConfigSpace::has_length(bytes) => self.config_space(name, bytes),
            Some((line, byte)) => {
                let what = format!(
                    "byte {byte:#x} is not of text, and {} bytes are no configuration space: \
                     it has 64, 256 or 4096",
                    bytes.len()
                );
                Err(Fault::at(line, what).in_file(name))
            }
        }
    }

    /// Reads a file of up to 16 MiB like [`Reader::bytes`].
    ///
    /// # Errors
    /// The errors of [`Reader::bytes`]; also if the file cannot be read or is larger.
    pub fn file(&self, path: &Path, device: Option<Bdf>) -> Result<DeviceFacts, BarReportError> {
        let bytes = file::whole(path, MAX_TEXT)?;
        self.bytes(&path.display().to_string(), &bytes, device)
    }

    /// Reads a device of this machine. `sysfs` is `/sys`, or another folder with a copy of the
    /// device's files `resource` and `config` in `bus/pci/devices/…`.
    ///
    /// # Errors
    /// Fails if the device does not exist, or if a file cannot be read or is invalid. Without root
    /// privileges, only the header of configuration space is readable, which does not contain
    /// MSI-X.
    pub fn sysfs(&self, sysfs: &Path, device: Bdf) -> Result<DeviceFacts, BarReportError> {
        sysfs::facts(sysfs, device, self.wording)
    }
}
