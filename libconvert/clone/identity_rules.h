// SPDX-License-Identifier: Apache-2.0
// Inside the identity rules: the lists by concern, in the order in which identity.cc puts them, and what several of
// them need.
#pragma once

#include "libconvert/clone/identity.h"
#include "libconvert/clone/identity_glob.h"

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kvmport::identity {

// One file each.
std::vector<IdentityRule> hostname_rules();
std::vector<IdentityRule> network_rules();
std::vector<IdentityRule> connection_rules();
std::vector<IdentityRule> address_rules();
std::vector<IdentityRule> ssh_rules();
std::vector<IdentityRule> storage_rules();
std::vector<IdentityRule> account_rules();
std::vector<IdentityRule> agent_rules();
std::vector<IdentityRule> cluster_rules();
std::vector<IdentityRule> trace_rules();
/// Secrets of the system itself, and at the very end the machine id.
std::vector<IdentityRule> machine_rules();

/// Lower-case hex SHA-256.
std::string sha256_hex(std::string_view bytes);
/// `digits` (up to 64) hex digits that follow from the identity's seed and the old value alone.
std::string derived_hex(const CloneIdentity& identity, std::string_view old_value, std::size_t digits);
/// The same as a UUID (version 4's form).
std::string derived_uuid(const CloneIdentity& identity, std::string_view old_uuid);
/// Where UUIDs begin in a text.
std::vector<std::size_t> find_uuids(std::string_view text);

/// Draft::write; the contents of a file that not everybody may read are kept out of reports.
void write_discreetly(Draft& draft, const std::string& path, const std::string& content, const std::string& reason,
                      std::uint32_t mode = 0644);
/// A finding with a digest of the file's content; nothing for an empty or missing file.
void report_digest(const std::string& rule, const std::string& path, const Draft& draft,
                   std::vector<IdentityFinding>& found);
/// A file of at most 1 MiB: configuration, not data.
std::optional<std::string> read_config(const Draft& draft, const std::string& path);

/// The guest runs systemd.
bool has_systemd(const Draft& draft);
/// The name of the unit's file where packages put units; nothing when there is none.
std::optional<std::string> find_unit(const Draft& draft, const std::string& name);
/// Writes a unit of ours and enables it under `target`.
void add_unit(Draft& draft, const std::string& name, const std::string& content, const std::string& target,
              const std::string& reason);

/// The guest's own name, as its configuration has it; empty: none, or "localhost".
std::string configured_hostname(const Draft& draft);
/// "ssh-ed25519" → "SHA256:…".
std::map<std::string, std::string> host_key_fingerprints(const GuestInfo& info, const Draft& draft);
/// The identity that a DHCP client has stored, as it stands in its file; empty: none.
std::string stored_duid(const GuestInfo& info, const Draft& draft);
/// LVM tells its own volume groups by this ("uname", "machineid", …); empty: it doesn't.
std::string lvm_system_id_source(const Draft& draft);

} // namespace kvmport::identity
