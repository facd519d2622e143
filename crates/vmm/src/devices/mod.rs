// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Devices behind the machine's regions: emulated ones, and real ones assigned by
//! VFIO.

pub mod assigned;
pub mod emulated;
pub mod vfio_files;
