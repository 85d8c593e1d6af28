// SPDX-License-Identifier: Apache-2.0
// What makes a guest this machine and no other, as data: rules that turn its mounted tree into a Plan, so that a clone
// shares no identity with its original. No code of the guest runs: what only the guest can make (machine id, SSH host
// keys) is taken away, and the clone makes it anew when it boots. For the description's half see libconvert/clone.
//
// Sources: virt-sysprep's operations, machine-id(5), the packages that own the files. One thread at a time.
#pragma once

#include "libconvert/clone/static_address.h"
#include "libconvert/guest/guest.h"
#include "libconvert/guest/plan.h"

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace kvmport {

/// What the clone shall be.
struct CloneIdentity {
  std::string hostname{}; ///< short or with its domain; empty: the guest keeps its name
  std::string domain{};   ///< for a short `hostname`; empty: the domain that the guest has
  /// The original's address and the clone's, card by card ("52:54:00:…", any case).
  std::vector<std::pair<std::string, std::string>> macs{};
  /// Of its first network card. Empty: the guest keeps what it has, and a warning names each static address.
  StaticAddress address{};
  /// Values that must be new but can't wait for the boot (connection UUIDs, iSCSI name) are derived from the old ones
  /// and this: the clone's own UUID serves. Empty: a random one, so that no two plans are alike.
  std::string seed{};
};

/// Something that still says which machine this is.
struct IdentityFinding {
  std::string rule; ///< the rule that takes it away
  std::string path;
  std::string value; ///< "SHA256:…" of keys as `ssh-keygen -l` shows it, a value, or a digest of secrets
  auto operator<=>(const IdentityFinding&) const = default;
};

/// One thing that identifies a guest, and how a clone is freed of it.
struct IdentityRule {
  enum class System { linux_guest };
  enum class Action { remove, empty };
  /// A rule is left out, with a warning, when one of these paths (globs) exists.
  struct Unless {
    std::string path, why;
  };
  using Edit = std::function<void(const GuestInfo&, const CloneIdentity&, Draft&)>;
  using Report = std::function<void(const GuestInfo&, const Draft&, std::vector<IdentityFinding>&)>;

  std::string name;
  std::string summary; ///< what it touches and why, one line; also the reason of its changes
  bool by_default = true;
  bool trace = false; ///< of the group "traces": what people and programs left behind
  System system = System::linux_guest;
  Action action = Action::remove;
  std::vector<std::string> paths{}; ///< what `action` is done to: see identity_glob.h
  std::vector<Unless> unless{};
  Edit edit{};     ///< done after the paths
  Report report{}; ///< what it would find; without it, digests of the files that `paths` match
};

/// All rules, in the order in which they are applied. The machine id is last: nothing may make a new one after it.
const std::vector<IdentityRule>& identity_rules();

/// Rules in the order of identity_rules().
using RuleSelection = std::vector<const IdentityRule*>;

/// "defaults,-ssh-host-keys,+traces": names of rules and of the groups "defaults", "all", "traces" and "none", taken
/// from left to right; "+" or nothing adds, "-" takes away. A text that begins with a sign starts from the defaults.
/// Error RULE_UNKNOWN names the nearest.
RuleSelection select_rules(const std::string& text);

/// What must change in `guest`, each change with its rule as its step. Contents of files that not everybody may read
/// are marked so that reports don't show them. Errors: HOSTNAME_INVALID, MAC_INVALID, ADDRESS_INVALID,
/// ADDRESS_NOT_PLACED, those of the guest.
Plan plan_identity(const GuestInfo& info, const GuestFilesystem& guest, const CloneIdentity& identity,
                   const RuleSelection& rules);

/// Everything in a guest that its rules (traces aside) would find, in the rules' order. Never contains a secret.
std::vector<IdentityFinding> identity_report(const GuestInfo& info, const GuestFilesystem& guest);
/// What two guests have in common: findings of the same rule with the same value.
std::vector<IdentityFinding> shared_identity(const std::vector<IdentityFinding>& a,
                                             const std::vector<IdentityFinding>& b);
/// The values by which clones are compared after their boot: "machine-id", "hostname", "ssh-host-key TYPE",
/// "dhcp-duid", "address" (static ones; the second is "address 2"). What a guest doesn't have is absent.
std::map<std::string, std::string> main_identity(const GuestInfo& info, const GuestFilesystem& guest);

/// The rules as a list of mdoc(7), for the manual page.
std::string rules_as_mdoc();

} // namespace kvmport
