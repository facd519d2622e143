// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests of the public API.

mod damaged;
mod files;
mod machines;
mod made_up;
mod pastes;
