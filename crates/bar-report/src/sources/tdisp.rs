// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reads the TDISP interface report of a device.

use std::path::Path;

use vfio_private::InterfaceReport;

use crate::error::BarReportError;
use crate::sources::file;

/// A TDISP interface report, and its name in errors.
#[derive(Clone, Debug)]
pub struct TdispReport {
    pub(crate) file: String,
    pub(crate) report: InterfaceReport,
}

impl TdispReport {
    /// Parses the bytes of a report. Errors call it `name`.
    ///
    /// # Errors
    /// [`BarReportError::Report`] if the bytes are not a valid report.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self, BarReportError> {
        let file = name.to_string();
        match InterfaceReport::parse(bytes) {
            Ok(report) => Ok(Self { file, report }),
            Err(source) => Err(BarReportError::Report { file, source }),
        }
    }

    /// Reads a file of up to 1 MiB.
    ///
    /// # Errors
    /// The errors of [`TdispReport::parse`]; also if the file cannot be read or
    /// is larger.
    pub fn read(path: &Path) -> Result<Self, BarReportError> {
        let bytes = file::whole(path, file::MAX_LIST)?;
        Self::parse(&path.display().to_string(), &bytes)
    }
}
