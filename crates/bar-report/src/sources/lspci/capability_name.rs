// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Recognizes capabilities by the names that `lspci` prints.

/// Returns whether the capability is PCI Express or PCI-X. Without either, `lspci` does not look
/// for extended capabilities.
pub(super) fn allows_extended(name: &str) -> bool {
    let is_named = ["Express", "PCI-X"]
        .iter()
        .any(|start| name.starts_with(start));
    is_named || is_id(name, "10") || is_id(name, "07")
}

/// Returns whether an unparsed capability may be MSI-X, in any spelling.
pub(super) fn may_be_msix(name: &str) -> bool {
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    let start: String = letters.take(4).collect();
    let has_name = name.to_ascii_lowercase().contains("msi-x");
    has_name || start.eq_ignore_ascii_case("msix") || "MSI-X:".starts_with(name)
}

/// Returns whether an `lspci` that does not know a capability printed its number as its name.
pub(super) fn is_id(name: &str, id: &str) -> bool {
    let number = name
        .strip_prefix('#')
        .or_else(|| name.strip_prefix("Capability ID 0x"));
    number.and_then(|number| number.split_whitespace().next()) == Some(id)
}
