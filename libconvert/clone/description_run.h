// SPDX-License-Identifier: Apache-2.0
// What the rules of a clone's description work with: the source's tree, edits that are recorded as changes, warnings,
// and new values by old ones, so that what was equal in the source is equal in the clone. For the description_*.cc.
#pragma once

#include "libconvert/clone/description.h"

#include <functional>

namespace kvmport {

class DescriptionRun {
 public:
  DescriptionRun(const std::string& xml, const std::string& source, const DescriptionRequest& request,
                 TakenIdentities& taken);
  DescriptionResult run();

  const DescriptionRequest& request() const { return request_; }
  TakenIdentities& taken() { return taken_; }
  DescriptionResult& result() { return result_; }
  const XmlNode& domain() const { return editor_.root(); }
  const std::string& source_name() const { return source_name_; }
  const std::string& source_uuid() const { return source_uuid_; } ///< as written, trimmed; "": none

  /// All elements below the domain that the names lead to: {"devices", "interface", "mac"}.
  std::vector<const XmlNode*> select(std::initializer_list<std::string_view> names) const;
  /// All elements of this name below `from`, at any depth.
  std::vector<const XmlNode*> anywhere(const XmlNode& from, std::string_view name) const;
  /// "line 7: <hostdev …>", for errors.
  std::string where(const XmlNode& node) const;

  // Edits, each recorded as a change. Values that are already so are no edit.
  void set_attribute(const XmlNode& node, std::string_view name, const std::string& value, const std::string& reason);
  void remove_attribute(const XmlNode& node, std::string_view name, const std::string& reason);
  void set_text(const XmlNode& node, const std::string& value, const std::string& reason);
  void remove(const XmlNode& node, const std::string& reason);
  void replace(const XmlNode& node, const std::string& xml, const std::string& reason);
  /// `name` is the new child's, with '@' and an attribute where that is what counts; `value` is the new value.
  void insert_child(const XmlNode& parent, const std::string& xml, const std::string& name, const std::string& value,
                    const std::string& reason);
  void warn(const XmlNode& node, const std::string& message) { warn_at(node.start_tag.begin, message); }

  // New values for old ones; the same old value gives the same new one.
  std::string renewed_uuid(const std::string& old);
  /// The clone's UUID for the source's, another UUID for a UUID, else a new serial; "" stays.
  std::string renewed_serial(const std::string& old);
  std::string renewed_wwn(const std::string& old);
  /// In the directory for files, with the clone's name instead of the source's, or in front.
  std::string renewed_path(const std::string& old);
  /// The same in `directory`.
  std::string renewed_path(const std::string& old, const std::string& directory);
  /// Nothing when `old` is no port's number.
  std::optional<std::string> renewed_port(const std::string& old);
  std::string renewed_net_device(const std::string& old);
  /// `old` with the clone's name instead of the source's where that stands as a word, else "NAME-old".
  std::string renamed(const std::string& old) const;
  /// Notes a new value that was made or given elsewhere.
  void remember(Identity kind, const std::string& old, const std::string& value) { renewals_[{kind, old}] = value; }
  /// What was renewed so far and can be known by itself (no ports, nothing short): old, lower case → new.
  std::map<std::string, std::string, std::less<>> renewed_words() const;

 private:
  void record(const XmlNode& node, std::size_t line, std::string_view attribute, std::string before, std::string after,
              const std::string& reason);
  std::string& renewal(Identity kind, const std::string& old) { return renewals_[{kind, old}]; }
  void check_source(const std::string& source);
  void claim_request();
  void warn_at(std::size_t offset, const std::string& message);
  void warn_leftovers();

  const DescriptionRequest& request_;
  TakenIdentities& taken_;
  XmlEditor editor_;
  DescriptionResult result_;
  std::string source_name_, source_uuid_;
  std::string rule_;
  std::map<std::pair<Identity, std::string>, std::string> renewals_;
};

// The rules, by the file that holds them.
// description_system.cc
void clone_domain_id(DescriptionRun& run);
void clone_name_rule(DescriptionRun& run);
void clone_uuid(DescriptionRun& run);
void clone_title(DescriptionRun& run);
void clone_genid(DescriptionRun& run);
void clone_sysinfo(DescriptionRun& run);
void clone_oem_strings(DescriptionRun& run);
void clone_metadata(DescriptionRun& run);
void clone_seclabel(DescriptionRun& run);
// description_disks.cc
void clone_disk_sources(DescriptionRun& run);
void clone_disk_serials(DescriptionRun& run);
void clone_disk_wwns(DescriptionRun& run);
void clone_iscsi(DescriptionRun& run);
void clone_memory_devices(DescriptionRun& run);
void clone_filesystems(DescriptionRun& run);
// description_network.cc
void clone_macs(DescriptionRun& run);
void clone_net_devices(DescriptionRun& run);
void clone_virtual_ports(DescriptionRun& run);
void clone_net_sources(DescriptionRun& run);
void clone_net_addresses(DescriptionRun& run);
void clone_vsock(DescriptionRun& run);
// description_channels.cc
void clone_channels(DescriptionRun& run);
void clone_logs(DescriptionRun& run);
void clone_graphics(DescriptionRun& run);
void clone_graphics_password(DescriptionRun& run);
// description_host.cc
void clone_nvram(DescriptionRun& run);
void clone_tpm(DescriptionRun& run);
void clone_host_devices(DescriptionRun& run);
void clone_shmem(DescriptionRun& run);
void clone_pstore(DescriptionRun& run);
void clone_pinning(DescriptionRun& run);
void clone_secrets(DescriptionRun& run);
void clone_leases(DescriptionRun& run);
void clone_host_identity(DescriptionRun& run);
void clone_command_line(DescriptionRun& run);

/// Calls `see` with the place of each word of a range of `text`: what stands between spaces, quotes, brackets, '=',
/// ',', ';'.
void each_word(std::string_view text, ByteRange range, const std::function<void(ByteRange)>& see);

/// Error PATH_TOO_LONG when `path` can't be a Unix socket's (sun_path, 107 bytes and a NUL).
void check_socket_path(const std::string& path);

} // namespace kvmport
