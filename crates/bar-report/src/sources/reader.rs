// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reads what describes a device, in whichever form it is.

use std::path::Path;

use vfio_private::config::ConfigSpace;

use crate::bdf::Bdf;
use crate::error::{BarReportError, Fault};
use crate::facts::DeviceFacts;
use crate::sources::{config_space, file, lspci, sysfs};
use crate::wording::Wording;

/// The largest text of `lspci` that is read: the output for some thousand
/// devices with all of their configuration space.
const MAX_TEXT: u64 = 16 << 20;

/// Reads what describes a device.
///
/// Where a text has a `name`, errors begin with it: the name of a file, or whatever the reader of
/// the error knows the text by.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reader {
    wording: Wording,
}

impl Reader {
    /// A reader whose errors and notes name inputs as this crate does.
    pub fn new() -> Self {
        Self::default()
    }

    /// A reader whose errors and notes name inputs as `wording` does. So do those of all that is
    /// made from what it reads.
    pub const fn with_wording(wording: Wording) -> Self {
        Self { wording }
    }

    /// Reads what `lspci -vv` printed, with or without the dump that `-x` to `-xxxx` add, as people
    /// paste it: quoted in a mail, without the first line, one device twice.
    ///
    /// Of several devices, `device` chooses one.
    ///
    /// # Errors
    /// [`BarReportError::Line`] if a line that may state something about BARs or MSI-X was not
    /// understood, contradicts another one, or may be missing; other variants if the text as a whole
    /// or its dump makes no sense.
    pub fn lspci(
        &self,
        name: &str,
        text: &str,
        device: Option<Bdf>,
    ) -> Result<DeviceFacts, BarReportError> {
        lspci::facts(name, text, device, self.wording)
    }

    /// Reads the bytes of configuration space: 64, 256 or 4096.
    ///
    /// # Errors
    /// [`BarReportError::Config`]
    pub fn config_space(&self, name: &str, bytes: &[u8]) -> Result<DeviceFacts, BarReportError> {
        config_space::facts(name, bytes, self.wording)
    }

    /// Reads either of these: text, or else the bytes of configuration space, which have no device to
    /// choose.
    ///
    /// # Errors
    /// As [`Reader::lspci`] and [`Reader::config_space`]; also if the bytes are neither.
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

    /// Reads a file, up to 16 MiB, as [`Reader::bytes`] does.
    ///
    /// # Errors
    /// As [`Reader::bytes`]; also if the file cannot be read or is larger.
    pub fn file(&self, path: &Path, device: Option<Bdf>) -> Result<DeviceFacts, BarReportError> {
        let bytes = file::whole(path, MAX_TEXT)?;
        self.bytes(&path.display().to_string(), &bytes, device)
    }

    /// Reads a device of this machine. `sysfs` is `/sys`, or a copy of the device's files `resource`
    /// and `config` in `bus/pci/devices/…` below another folder.
    ///
    /// # Errors
    /// If there is no such device, or a file cannot be read or makes no sense. Only root may read more
    /// of configuration space than its header, which hides MSI-X.
    pub fn sysfs(&self, sysfs: &Path, device: Bdf) -> Result<DeviceFacts, BarReportError> {
        sysfs::facts(sysfs, device, self.wording)
    }
}
