// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What `vmm boot --help` says about this architecture.

/// The option `--kernel`.
pub const KERNEL: &str = "The kernel: an uncompressed Image, as Debian installs it";

/// The option `--confidential`.
pub const CONFIDENTIAL: &str = "Run a confidential VM: not available on this architecture, where \
                                no VM has private memory";

/// After the options.
pub const NOTES: &str = "
The machine has a GICv3 with an ITS, and a device tree. Devices interrupt the
guest by MSI or MSI-X: a device that has neither can be assigned, but its
driver gets no interrupts.
";
