// SPDX-License-Identifier: Apache-2.0
#include "libconvert/host/overcommit.h"

#include "formats/image.h"
#include "libconvert/machine/text.h"
#include "libconvert/machine/xml_util.h"
#include "libconvert/target/target.h"

#include <algorithm>
#include <fmt/format.h>
#include <map>
#include <sys/stat.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

std::uint64_t sum(std::uint64_t a, std::uint64_t b) {
  std::uint64_t result = 0;
  return __builtin_add_overflow(a, b, &result) ? ~std::uint64_t{0} : result;
}

/// Bytes that the guest sees and that the host has given. Errors as open_image().
DiskDemand look_at_disk(const fs::path& file, const std::string& format) {
  struct stat st {};
  if (::stat(file.c_str(), &st) != 0)
    throw system_error(errno, "can't look at " + file.string());
  OpenOptions options;
  options.format = format;
  options.allowed_directories = {"/"}; // the host's own images
  return {file, open_image(file, options)->size(), static_cast<std::uint64_t>(st.st_blocks) * 512};
}

void add_domain_disk(const XmlElement& disk, Demand& demand) {
  const std::string device = attribute(&disk, "device"), file = attribute(child(&disk, "source"), "file");
  if ((!device.empty() && device != "disk") || file.empty() || child(&disk, "readonly") != nullptr)
    return;
  try {
    demand.disks.push_back(look_at_disk(file, attribute(child(&disk, "driver"), "type")));
  } catch (const Error& e) {
    demand.notes.push_back(printable(demand.name) + ": a disk is not counted: " + e.summary());
  }
}

/// A machine's disk as far as its description tells; else its image does.
std::uint64_t planned_size(const MachineDisk& disk) {
  if (disk.capacity != 0 || disk.path.empty())
    return disk.capacity;
  OpenOptions options;
  options.format = disk.format;
  options.window = disk.window;
  return open_image(disk.path, options)->size();
}

constexpr std::uint64_t gibi = 1U << 30;

std::string gibibytes(std::uint64_t bytes) {
  return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / gibi);
}

OvercommitRow judge_processors(std::uint64_t wanted, unsigned there) {
  constexpr unsigned most_a_thread = 4;
  OvercommitRow row{"processors", {}, wanted, there, Verdict::ok, fmt::format("{} on {} threads", wanted, there)};
  if (wanted > std::uint64_t{there} * most_a_thread)
    row.verdict = Verdict::bad, row.text += ": more than four a thread";
  else if (wanted > there)
    row.verdict = Verdict::warning, row.text += ": they share, which idle guests can";
  return row;
}

OvercommitRow judge_memory(std::uint64_t wanted, std::uint64_t there) {
  const std::uint64_t reserve = std::max(gibi, there / 20);
  OvercommitRow row{"memory", {}, wanted, there, Verdict::ok, gibibytes(wanted) + " of " + gibibytes(there)};
  if (wanted > there)
    row.verdict = Verdict::bad, row.text += ": the host would kill guests";
  else if (there < reserve || wanted > there - reserve)
    row.verdict = Verdict::warning, row.text += ": little is left for the host";
  return row;
}

OvercommitRow judge_disk(const FilesystemSpace& space, std::uint64_t growth) {
  OvercommitRow row{"disk",      space.mount,
                    growth,      space.free,
                    Verdict::ok, gibibytes(growth) + " may still be written, " + gibibytes(space.free) + " is free"};
  if (growth > space.free)
    row.verdict = Verdict::bad, row.text += ": full before the disks are";
  else if (growth > space.free / 5 * 4)
    row.verdict = Verdict::warning, row.text += ": little is left";
  return row;
}

} // namespace

Demand domain_demand(const std::string& xml) {
  const auto document = parse_xml(xml, "a domain");
  const XmlElement* domain = document->RootElement();
  Demand demand;
  demand.name = child_text(domain, "name");
  demand.processors =
      static_cast<unsigned>(std::clamp<std::uint64_t>(parse_number(child_text(domain, "vcpu")).value_or(1), 1, 65536));
  // libvirt itself writes KiB, whatever it was given.
  const XmlElement* memory = child(domain, "memory");
  const std::string unit = attribute(memory, "unit");
  const auto count = parse_number(text_of(memory));
  if (local_name(*domain) != "domain" || (memory != nullptr && (!count || (!unit.empty() && unit != "KiB"))))
    throw Error("DESCRIPTION_INVALID", "a domain's description is not understood", printable(demand.name));
  demand.memory = multiplied(count.value_or(0), 1024).value_or(~std::uint64_t{0});
  for (const XmlElement* disk : children(child(domain, "devices"), "disk"))
    add_domain_disk(*disk, demand);
  return demand;
}

Demand planned_demand(const Machine& machine, const fs::path& output) {
  Demand demand;
  demand.name = machine.name;
  demand.planned = true;
  demand.processors = machine.cpu.count();
  demand.memory = machine.memory == 0 ? fallback_memory : machine.memory;
  for (std::size_t i = 0; i < machine.disks.size(); i++) {
    const fs::path file = output / fmt::format("{}-{}", safe_name(machine.name), i);
    try {
      demand.disks.push_back({file, planned_size(machine.disks[i]), 0});
    } catch (const Error& e) {
      demand.notes.push_back(printable(demand.name) + ": a disk is not counted: " + e.summary());
    }
  }
  return demand;
}

std::vector<OvercommitRow> judge_overcommit(const std::vector<Demand>& demands, const HostCapacity& capacity) {
  std::uint64_t processors = 0, memory = 0;
  std::map<std::string, std::pair<FilesystemSpace, std::uint64_t>> growth; // by mount point
  std::vector<OvercommitRow> too_large, rows;
  for (const Demand& demand : demands) {
    processors += demand.processors;
    memory = sum(memory, demand.memory);
    if (demand.processors > capacity.processors)
      too_large.push_back({"processors", demand.name, demand.processors, capacity.processors, Verdict::bad,
                           fmt::format("{} alone has {}, the host {}", printable(demand.name), demand.processors,
                                       capacity.processors)});
    for (const DiskDemand& disk : demand.disks)
      if (const auto space = capacity.filesystem(disk.file)) {
        auto& known = growth.try_emplace(space->mount, *space, 0).first->second;
        known.second = sum(known.second, disk.growth());
      }
  }
  rows.push_back(judge_processors(processors, capacity.processors));
  rows.insert(rows.end(), too_large.begin(), too_large.end());
  rows.push_back(judge_memory(memory, capacity.memory));
  for (const auto& [mount, known] : growth)
    rows.push_back(judge_disk(known.first, known.second));
  return rows;
}

} // namespace kvmport
