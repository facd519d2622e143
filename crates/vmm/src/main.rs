// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command `vmm`.

use std::process::ExitCode;

fn main() -> ExitCode {
    vmm::cli::main()
}
