// SPDX-License-Identifier: Apache-2.0
// Interfaces keep their names. On the new hardware a card sits in another slot, so udev would call it otherwise and the
// configuration, addresses included, would not find it. MAC addresses are kept; a name is tied to its card's MAC.
//
// How: from systemd 240 on a .link file. Before that, a card that the initramfs has already renamed after its slot is
// never renamed by a .link file again (udev's should_rename() saw NET_NAME_RENAMED); a rule with NAME= is honoured by
// every udev, so older systems get the rule. Both match real cards only: bridges, bonds and VLANs inherit MACs.
#include "libconvert/guest/linux/boot_config.h"
#include "libconvert/guest/linux/network_config.h"
#include "libconvert/guest/linux/steps.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <numeric>

namespace kvmport::linux_guest {

namespace {

constexpr unsigned first_good_link_version = 240;
constexpr const char* rules_file = "/etc/udev/rules.d/70-kvmport-net.rules";

// --- what renames cards in this guest ------------------------------------------------------------------------------

struct Renamer {
  bool udev = false;        ///< some udev is there
  unsigned systemd = 0;     ///< its version; 0: unknown or none
  bool predictable = false; ///< cards are named after their place unless told otherwise
  bool use_link() const { return systemd >= first_good_link_version; }
};

/// The version in the name of systemd's own library, "libsystemd-shared-252.so".
unsigned systemd_version(const Draft& draft) {
  std::vector<std::string> directories;
  for (const std::string& top : {std::string("/usr/lib"), std::string("/lib"), std::string("/usr/lib64")})
    for (const std::string& name : draft.list(top))
      if (name.ends_with("-linux-gnu") || name == "systemd")
        directories.push_back(join_path(top, name == "systemd" ? name : name + "/systemd"));
  unsigned version = 0;
  for (const std::string& directory : directories)
    for (const std::string& name : draft.list(directory))
      if (constexpr std::string_view prefix = "libsystemd-shared-"; name.starts_with(prefix)) {
        unsigned value = 0;
        const char* begin = name.data() + prefix.size();
        if (std::from_chars(begin, name.data() + name.size(), value).ec == std::errc{})
          version = std::max(version, value);
      }
  return version;
}

bool masked(const Draft& draft, const std::string& path) {
  const auto status = draft.lstat(path);
  if (!status)
    return false;
  if (status->type == FileType::symlink)
    return draft.readlink(path) == "/dev/null";
  const auto text = draft.try_read(path);
  return text && trim(*text).empty();
}

Renamer find_renamer(const GuestInfo& info, const Draft& draft) {
  Renamer renamer;
  renamer.systemd = systemd_version(draft);
  for (const char* path : {"/usr/lib/systemd/systemd-udevd", "/lib/systemd/systemd-udevd", "/sbin/udevd",
                           "/usr/sbin/udevd", "/bin/udevadm", "/usr/bin/udevadm", "/sbin/udevadm"})
    renamer.udev = renamer.udev || draft.lstat(path).has_value();
  for (const char* name : {"80-net-setup-link.rules", "80-net-name-slot.rules"}) {
    const bool there = draft.exists("/usr/lib/udev/rules.d/" + std::string(name)) ||
                       draft.exists("/lib/udev/rules.d/" + std::string(name));
    renamer.predictable = renamer.predictable || (there && !masked(draft, "/etc/udev/rules.d/" + std::string(name)));
  }
  if (masked(draft, "/etc/systemd/network/99-default.link"))
    renamer.predictable = false;
  for (const BootConfig& config : find_boot_configs(info, draft))
    if (const auto text = draft.try_read(config.path))
      edit_kernel_args(config.kind, *text, [&](std::string& args, const KernelArgs&) {
        if ((" " + args + " ").find(" net.ifnames=0 ") != std::string::npos)
          renamer.predictable = false;
      });
  return renamer;
}

// --- which name belongs to which card ------------------------------------------------------------------------------

struct Card {
  std::string mac, pci, slot_name, name;
  std::size_t place = 0; ///< among the machine's cards: the order in which the new hardware shows them
};

/// The PCI bus and slot that a name like enp2s1 tells, as the beginning of an address: "0000:02:01.".
std::string pci_of_name(std::string_view name) {
  if (!name.starts_with("enp"))
    return {};
  unsigned bus = 0, slot = 0;
  const char* const end = name.data() + name.size();
  const auto after_bus = std::from_chars(name.data() + 3, end, bus);
  if (after_bus.ec != std::errc{} || after_bus.ptr == end || *after_bus.ptr != 's')
    return {};
  if (std::from_chars(after_bus.ptr + 1, end, slot).ec != std::errc{} || bus > 255 || slot > 31)
    return {};
  char text[16];
  std::snprintf(text, sizeof text, "0000:%02x:%02x.", bus, slot);
  return text;
}

std::vector<Card> cards_of(const GuestInfo& info) {
  std::vector<Card> cards;
  std::size_t place = 0;
  for (const MachineNic& nic : info.machine.nics) {
    const std::string slot_name = nic.hotplug_slot ? "ens" + std::to_string(*nic.hotplug_slot) : "";
    if (const std::string mac = normal_mac(nic.mac); !mac.empty())
      cards.push_back({mac, nic.pci_address, slot_name, {}, place});
    place++;
  }
  if (std::all_of(cards.begin(), cards.end(), [](const Card& card) { return !card.pci.empty(); }))
    std::stable_sort(cards.begin(), cards.end(), [](const Card& a, const Card& b) { return a.pci < b.pci; });
  return cards;
}

/// eth0, eth1, …: the kernel's own names, in the order of the cards.
bool is_kernel_name(std::string_view name) {
  return name.starts_with("eth") && name.size() > 3 &&
         name.find_first_not_of("0123456789", 3) == std::string_view::npos;
}

/// Gives names to cards; returns the names that no card is left for.
std::vector<std::string> match_names(const NetworkConfig& config, std::vector<Card>& cards, Draft& draft) {
  std::set<std::string> open;
  for (const auto& [name, file] : config.names)
    open.insert(name);
  for (Card& card : cards)
    if (const auto known = config.name_of_mac.find(card.mac); known != config.name_of_mac.end()) {
      card.name = known->second;
      open.erase(card.name);
    }
  for (Card& card : cards) {
    std::string by_mac = "enx" + card.mac;
    std::erase(by_mac, ':');
    const auto fits = [&](const std::string& name) {
      const std::string pci = pci_of_name(name);
      return name == by_mac || (!card.slot_name.empty() && name == card.slot_name) ||
             (!pci.empty() && card.pci.starts_with(pci));
    };
    const auto hit = std::find_if(open.begin(), open.end(), fits);
    if (card.name.empty() && hit != open.end()) {
      card.name = *hit;
      open.erase(hit);
    }
  }
  for (std::size_t i = 0; i < cards.size() && cards.size() > 1; i++)
    if (const std::string name = "eth" + std::to_string(i); cards[i].name.empty() && open.erase(name) > 0) {
      cards[i].name = name;
      draft.note("network card " + cards[i].mac + " was taken for " + name + ", its place among the machine's cards");
    }
  std::vector<std::string> names(open.begin(), open.end());
  std::sort(names.begin(), names.end(), natural_less);
  std::vector<Card*> free;
  for (Card& card : cards)
    if (card.name.empty())
      free.push_back(&card);
  const bool one_to_one = names.size() == 1 && free.size() == 1;
  std::size_t given = 0;
  std::string pairs;
  for (; given < names.size() && given < free.size(); given++) {
    free[given]->name = names[given];
    pairs += (pairs.empty() ? "" : ", ") + names[given] + " = " + free[given]->mac;
  }
  if (given > 0 && !one_to_one)
    draft.warn("which network card had which name isn't written anywhere; they were matched in order: " + pairs);
  return {names.begin() + static_cast<std::ptrdiff_t>(given), names.end()};
}

// --- what is written -----------------------------------------------------------------------------------------------

void write_link(const Card& card, Draft& draft) {
  draft.write("/etc/systemd/network/10-kvmport-" + card.name + ".link",
              "# The network configuration knows this card as " + card.name +
                  "; the slot that udev names cards after has changed.\n"
                  "[Match]\nMACAddress=" +
                  card.mac + "\nPath=*pci-*\n\n[Link]\nName=" + card.name + "\n",
              "the network configuration uses the name " + card.name + "; the card keeps its MAC address " + card.mac +
                  " but sits in another slot");
}

void write_rules(const std::vector<const Card*>& cards, Draft& draft) {
  std::string text =
                  "# The network configuration knows the cards by these names; the slots that udev names cards after "
                  "have changed.\n",
              names;
  for (const Card* card : cards) {
    text += "SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", ATTR{address}==\"" + card->mac +
            "\", ATTR{type}==\"1\", NAME=\"" + card->name + "\"\n";
    names += (names.empty() ? "" : ", ") + card->name;
  }
  draft.write(rules_file, text,
              "the network configuration uses the names " + names +
                  "; the cards keep their MAC addresses but sit in other slots");
}

/// Rules that would give a name to the wrong card, or match hardware that is gone, become comments.
void quiet_rules(const NetworkConfig& config, const std::vector<Card>& cards, Draft& draft) {
  std::map<std::string, std::set<std::size_t>> lines;
  for (const NetRule& rule : config.rules) {
    if (rule.file == rules_file)
      continue;
    const bool ours = std::any_of(cards.begin(), cards.end(), [&](const Card& c) { return c.mac == rule.mac; });
    const bool takes_name = std::any_of(cards.begin(), cards.end(), [&](const Card& c) { return c.name == rule.name; });
    const bool stale = !ours && !rule.mac.empty() && takes_name;
    if ((rule.bound_to_hardware && takes_name) || stale)
      lines[rule.file].insert(rule.line);
  }
  for (const auto& [file, numbers] : lines) {
    const auto text = draft.try_read(file);
    if (!text)
      continue;
    draft.write(file,
                edit_lines(*text,
                           [&numbers = numbers](std::string& line, std::size_t number) {
                             if (numbers.contains(number))
                               line = "# " + line;
                             return true;
                           }),
                "it gave a card's name to hardware that is gone");
  }
}

/// Path= and Driver= in [Match] of .network and .link files: the MAC takes their place.
void rewrite_hardware_matches(const NetworkConfig& config, const std::vector<Card>& cards, Draft& draft) {
  for (const std::string& path : config.hardware_matches) {
    const auto text = draft.try_read(path);
    if (!text)
      continue;
    const IniFile ini = parse_ini(*text);
    const auto& match = ini.at("Match");
    const std::string wanted = match.contains("Path") ? match.at("Path").front() : "";
    if (wanted.find('*') != std::string::npos && wanted.find(':') == std::string::npos && !match.contains("Driver"))
      continue; // "pci-*" fits the new card too
    const bool has_mac = match.contains("MACAddress") || match.contains("PermanentMACAddress");
    std::string mac;
    for (const Card& card : cards)
      if (cards.size() == 1 || (!card.pci.empty() && wanted.find(card.pci) != std::string::npos))
        mac = card.mac;
    if (!has_mac && mac.empty()) {
      draft.warn(path + ": it matches a card by its place or driver on the old hardware, and which card that was isn't "
                        "known; it was left as it is");
      continue;
    }
    std::string section;
    bool written = has_mac;
    const std::string after = edit_lines(*text, [&](std::string& line, std::size_t) {
      const std::string_view body = trim(line);
      if (body.starts_with('['))
        section = body;
      if (section != "[Match]" || (!body.starts_with("Path=") && !body.starts_with("Driver=")))
        return true;
      if (written)
        return false;
      line = "MACAddress=" + mac;
      return written = true;
    });
    if (after != *text)
      draft.write(path, after, "it matched a card by its place or driver on the old hardware; the MAC address stays");
  }
}

void warn_without_macs(const GuestInfo& info, const NetworkConfig& config, const Renamer& renamer, Draft& draft) {
  std::string names;
  for (const auto& [name, file] : config.names)
    if (renamer.predictable || !is_kernel_name(name))
      names += (names.empty() ? "" : ", ") + name + " (" + file + ")";
  if (!names.empty())
    draft.warn("the network configuration names " + names + ", but " +
               (info.machine.nics.empty() ? "the source tells of no network card"
                                          : "the source tells no MAC address of its network cards") +
               ": the new card may be called otherwise and its addresses not take effect");
}

void warn_of_patterns(const NetworkConfig& config, const Renamer& renamer, Draft& draft) {
  for (const auto& [pattern, file] : config.patterns) {
    const bool of_cards = glob_match(pattern, "ens192") || glob_match(pattern, "eth0") || glob_match(pattern, "enp2s1");
    const bool fits = glob_match(pattern, "enp1s0") || (!renamer.predictable && glob_match(pattern, "eth0"));
    if (of_cards && !fits)
      draft.warn(file + ": cards are matched by the pattern " + pattern +
                 ", which the new name (like enp1s0) may not fit");
  }
}

bool already_so(const std::vector<Card>& cards) {
  return std::all_of(cards.begin(), cards.end(), [](const Card& card) {
    return card.name.empty() || card.name == "eth" + std::to_string(card.place);
  });
}

} // namespace

void network_names_step(const GuestInfo& info, Draft& draft) {
  const NetworkConfig config = read_network_config(draft);
  for (const std::string& trouble : config.troubles)
    draft.warn(trouble);
  const Renamer renamer = find_renamer(info, draft);
  warn_of_patterns(config, renamer, draft);
  std::vector<Card> cards = cards_of(info);
  if (cards.empty()) {
    warn_without_macs(info, config, renamer, draft);
    return;
  }
  for (const std::string& name : match_names(config, cards, draft))
    draft.warn(config.names.at(name) + ": the configuration names " + name + ", but the machine has no card for it");
  for (const auto& [mac, file] : config.files_of_macs)
    if (std::none_of(cards.begin(), cards.end(), [&mac = mac](const Card& card) { return card.mac == mac; }))
      draft.warn(file + ": this configuration is for the MAC address " + mac + ", which no card of the machine has");
  rewrite_hardware_matches(config, cards, draft);
  quiet_rules(config, cards, draft);

  std::vector<const Card*> to_write;
  for (const Card& card : cards)
    if (!card.name.empty() && config.names.contains(card.name) && !config.settled.contains(card.mac))
      to_write.push_back(&card);
  if (to_write.empty())
    return;
  if (!renamer.predictable && already_so(cards)) {
    draft.note("network cards keep the kernel's names (eth0 …) in the machine's order; nothing needs to be written");
    return;
  }
  if (!renamer.udev) {
    draft.warn("nothing in this guest renames network cards (no udev), and the kernel will call them eth0, eth1, … in "
               "the machine's order; the configuration uses other names");
    return;
  }
  if (renamer.use_link())
    for (const Card* card : to_write)
      write_link(*card, draft);
  else
    write_rules(to_write, draft);
}

} // namespace kvmport::linux_guest
