// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Plans that are carried out by an address space that fails or panics.

mod panics;
mod partial;
