// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What `vmm boot --help` says about this architecture.

/// The option `--kernel`.
pub const KERNEL: &str = "The kernel: a bzImage, as distributions install it";

/// The option `--confidential`.
pub const CONFIDENTIAL: &str =
    "Run a software-protected VM: RAM and accepted registers are private";

/// After the options.
pub const NOTES: &str = "";
