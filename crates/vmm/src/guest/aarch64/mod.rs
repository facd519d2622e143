// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest on aarch64.

pub mod asm;
