// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reports from files: accepted inputs, rejected inputs and error messages.

mod bars_and_msix;
mod changed_lines;
mod enhanced_allocation;
mod hostile_files;
mod mails_and_web_pages;
mod misleading_pastes;
mod mixed_devices;
mod refused_texts;
mod support;
mod width;
