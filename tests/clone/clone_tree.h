// SPDX-License-Identifier: Apache-2.0
// A guest made of a host directory, for the identity rules: tests put files in, apply rules, and read what came out.
#pragma once

#include "libconvert/clone/identity.h"
#include "tests/support/tempdir.h"

#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace kvmport::test {

class CloneTree {
 public:
  CloneTree() : filesystem_(open_directory_filesystem(root_.path())) {}

  CloneTree& file(const std::string& path, const std::string& content, unsigned mode = 0644) {
    std::filesystem::create_directories(real(path).parent_path());
    std::ofstream(real(path), std::ios::binary) << content;
    std::filesystem::permissions(real(path), std::filesystem::perms(mode));
    return *this;
  }
  CloneTree& link(const std::string& target, const std::string& path) {
    std::filesystem::create_directories(real(path).parent_path());
    std::filesystem::create_symlink(target, real(path));
    return *this;
  }
  CloneTree& files(const std::map<std::string, std::string>& all) {
    for (const auto& [path, content] : all)
      file(path, content);
    return *this;
  }

  /// Plans and applies.
  Plan apply(const CloneIdentity& identity, const std::string& rules, const GuestInfo& info = {}) {
    Plan plan = plan_identity(info, *filesystem_, identity, select_rules(rules));
    apply_plan(plan, *filesystem_);
    return plan;
  }
  std::vector<IdentityFinding> report() const { return identity_report({}, *filesystem_); }
  std::string read(const std::string& path) const { return filesystem_->read(path); }
  bool exists(const std::string& path) const { return filesystem_->lstat(path).has_value(); } ///< links count
  /// Gone, or a file without content.
  bool cleaned(const std::string& path) const {
    const auto st = filesystem_->lstat(path);
    return !st || (st->type == FileType::regular && st->size == 0);
  }
  GuestFilesystem& filesystem() const { return *filesystem_; }

 private:
  std::filesystem::path real(const std::string& path) const {
    return root_.path() / std::filesystem::path(path).relative_path();
  }
  TempDir root_;
  std::unique_ptr<GuestFilesystem> filesystem_;
};

inline constexpr const char* old_mac = "52:54:00:aa:bb:01";
inline constexpr const char* new_mac = "52:54:00:0c:0d:0e";

/// A clone named db2 with one card.
inline CloneIdentity db2() {
  return {
      .hostname = "db2", .domain = {}, .macs = {{old_mac, new_mac}}, .seed = "11111111-1111-4111-8111-111111111111"};
}

inline constexpr const char* ed25519_key =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP9OjQAdbZcLvuN+S6nRyh6zssNIhwigMqLM4X4/TWUB root@db1\n";
inline constexpr const char* ed25519_print = "SHA256:s3vqcrrSXIyLMimSpDoQ9dEIdNjc6RLckEaHlukxzo0";
inline constexpr const char* ecdsa_key =
    "ecdsa-sha2-nistp256 "
    "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBNZYNzytJhL9NhlNhKfGWyI6PFQFaRwaTFQOMcOK3SRkMN7vzlxg0HMU18xix5"
    "YUOiYzpGWhRgnv3tBMlv9HpsM= root@db1\n";
inline constexpr const char* ecdsa_print = "SHA256:j9UmvUdpCdr0KRwa1FEVmOtnaHynwjKYq7SlBVpWJdI";

/// All warnings, one a line.
inline std::string warnings_of(const Plan& plan) {
  std::string text;
  for (const auto& warning : plan.warnings)
    text += warning + "\n";
  return text;
}

} // namespace kvmport::test
