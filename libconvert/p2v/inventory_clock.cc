// SPDX-License-Identifier: Apache-2.0
// Whether the hardware clock runs in UTC or local time. A system that sets its clock from the hardware's sees no
// difference whatever that holds: then only /etc/adjtime, or a clock that the network has set, tells anything.
#include "libconvert/machine/text.h"
#include "libconvert/p2v/inventory_parts.h"

#include <cmath>
#include <ctime>
#include <fmt/format.h>
#include <sstream>
#include <sys/timex.h>

namespace kvmport::inventory_parts {
namespace {

/// The line of /etc/adjtime (hwclock(8)) that says "UTC" or "LOCAL".
std::string adjtime_word(const SysTree& tree) {
  std::istringstream lines(tree.word("/etc/adjtime"));
  std::string line;
  for (int i = 0; i < 3; i++)
    if (!std::getline(lines, line))
      return {};
  return std::string(trimmed(line));
}

/// The system clock in seconds: ours, or what it was when the tree was recorded (boot time and time since then).
std::optional<std::int64_t> system_time(const SysTree& tree) {
  if (tree.live())
    return std::time(nullptr);
  std::istringstream lines(tree.word("/proc/stat"));
  const std::string uptime = tree.word("/proc/uptime");
  const auto since = parse_number(uptime.substr(0, uptime.find('.')));
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with("btime "))
      if (const auto boot = parse_number(line.substr(6)); boot && since && *boot < 1ULL << 40 && *since < 1ULL << 40)
        return static_cast<std::int64_t>(*boot + *since);
  return std::nullopt;
}

/// Days since 1970 of a date in the Gregorian calendar.
std::int64_t days_of(int year, unsigned month, unsigned day) {
  std::tm date{};
  date.tm_year = year - 1900;
  date.tm_mon = static_cast<int>(month) - 1;
  date.tm_mday = static_cast<int>(day);
  return ::timegm(&date) / 86400;
}

/// What the hardware clock shows, taken as UTC.
std::optional<std::int64_t> hardware_time(const SysTree& tree) {
  const std::string at = "/sys/class/rtc/rtc0/";
  if (const auto seconds = tree.number(at + "since_epoch"); seconds && *seconds < 1ULL << 40)
    return static_cast<std::int64_t>(*seconds);
  int year = 0;
  unsigned month = 0, day = 0, hour = 0, minute = 0, second = 0;
  if (std::sscanf(tree.word(at + "date").c_str(), "%4d-%2u-%2u", &year, &month, &day) != 3 ||
      std::sscanf(tree.word(at + "time").c_str(), "%2u:%2u:%2u", &hour, &minute, &second) != 3)
    return std::nullopt;
  return days_of(year, month, day) * 86400 + std::int64_t{hour} * 3600 + std::int64_t{minute} * 60 + second;
}

bool synchronised(const SysTree& tree) {
  timex state{};
  return tree.live() && ::adjtimex(&state) >= 0 && (state.status & STA_UNSYNC) == 0;
}

/// Zones are whole quarters of an hour, at most 14 hours away.
bool looks_like_zone(std::int64_t seconds) {
  const std::int64_t away = std::abs(seconds), rest = away % 900;
  return away > 600 && away <= 14 * 3600 + 120 && (rest <= 120 || rest >= 780);
}

} // namespace

void read_clock(const SysTree& tree, Inventory& inventory) {
  using Basis = ClockInventory::Basis;
  ClockInventory& clock = inventory.clock;
  const auto hardware = hardware_time(tree), system = system_time(tree);
  const bool readable = hardware.has_value() && system.has_value();
  const std::int64_t offset = readable ? *hardware - *system : 0;
  if (readable && std::abs(offset) < std::int64_t{1} << 36)
    clock.offset_minutes = static_cast<int>(std::lround(static_cast<double>(offset) / 60));
  const std::string word = adjtime_word(tree);
  if (word == "LOCAL" || word == "UTC") {
    clock.basis = word == "UTC" ? Basis::utc : Basis::localtime;
    clock.evidence = "/etc/adjtime says so";
  } else if (readable && looks_like_zone(offset)) {
    clock.basis = Basis::localtime;
    clock.evidence = fmt::format("it is {} minutes from UTC", *clock.offset_minutes);
  } else if (readable && std::abs(offset) <= 120 && synchronised(tree)) {
    clock.basis = Basis::utc;
    clock.evidence = "it agrees with the system clock, which is synchronised";
  } else {
    clock.evidence = !readable                 ? "the clocks can't be read"
                     : std::abs(offset) <= 120 ? "the system's clock may have been set from it"
                                               : "the clocks differ by no time zone";
    inventory.notes.push_back("whether the hardware clock runs in UTC or local time can't be told (" + clock.evidence +
                              "): UTC is taken");
  }
}

} // namespace kvmport::inventory_parts
