// SPDX-License-Identifier: Apache-2.0
// libvirt's domain XML (https://libvirt.org/formatdomain.html), of any driver: KVM, Xen, and what `virsh dumpxml` shows
// of VMware and Hyper-V.
#include "libconvert/machine/libvirt_devices.h"
#include "libconvert/machine/limits.h"
#include "libconvert/machine/paths.h"

#include <set>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

/// <memory unit='KiB'>: KiB when not said; KB, MB, … are powers of 1000 here.
std::optional<std::uint64_t> memory_of(const XmlElement* element) {
  if (element == nullptr)
    return std::nullopt;
  const auto count = parse_number(text_of(element));
  const std::string unit = attribute(element, "unit");
  static const std::map<std::string, std::uint64_t> units = {{"", 1024},
                                                             {"b", 1},
                                                             {"bytes", 1},
                                                             {"KB", 1000},
                                                             {"k", 1024},
                                                             {"KiB", 1024},
                                                             {"MB", 1000'000},
                                                             {"M", 1U << 20},
                                                             {"MiB", 1U << 20},
                                                             {"GB", 1000'000'000},
                                                             {"G", 1U << 30},
                                                             {"GiB", 1U << 30},
                                                             {"TB", 1000'000'000'000},
                                                             {"T", 1ULL << 40},
                                                             {"TiB", 1ULL << 40}};
  const auto factor = units.find(unit);
  if (!count || factor == units.end())
    throw Error("DESCRIPTION_INVALID", "the amount of memory is not understood",
                printable(text_of(element) + " " + unit, 80));
  return multiplied(*count, factor->second).value_or(max_memory + 1);
}

MachineCpu cpu_of(const XmlElement& domain, const std::string& name, std::vector<std::string>& notes) {
  const std::string text = child_text(&domain, "vcpu");
  const std::uint64_t count = text.empty() ? 1 : parse_number(text).value_or(0);
  const XmlElement* cpu = child(&domain, "cpu");
  const XmlElement* topology = child(cpu, "topology");
  std::uint64_t cores = parse_number(attribute(topology, "cores")).value_or(1);
  const std::uint64_t threads = parse_number(attribute(topology, "threads")).value_or(1);
  for (const char* level : {"dies", "clusters"}) // below a socket: counted as cores
    if (const auto n = parse_number(attribute(topology, level)); n && *n > 0 && *n <= max_cpus && cores <= max_cpus)
      cores *= *n;
  MachineCpu result = checked_cpu(count, std::min(cores, max_cpus + 1), std::min(threads, max_cpus + 1), name, notes);
  result.model = child_text(cpu, "model");
  if (const std::string current = attribute(child(&domain, "vcpu"), "current"); !current.empty() && current != text)
    notes.push_back("of " + text + " processors only " + printable(current, 20) + " were plugged in: all are kept");
  return result;
}

void read_firmware(const fs::path& path, const XmlElement& os, const ReadOptions& options, Machine& machine) {
  const XmlElement* loader = child(&os, "loader");
  const std::string file = lower(text_of(loader));
  const bool efi_file = file.find("ovmf") != std::string::npos || file.find("edk2") != std::string::npos;
  if (attribute(&os, "firmware") == "efi" || attribute(loader, "type") == "pflash" || efi_file)
    machine.firmware = MachineFirmware::uefi;
  else
    machine.firmware = MachineFirmware::bios;
  // Secure boot is enforced when the firmware variant says so; the loader's "secure" only says that it can.
  bool enrolled = false, known = false;
  for (const XmlElement* feature : children(child(&os, "firmware"), "feature")) {
    const bool enabled = parse_bool(attribute(feature, "enabled")).value_or(false);
    if (attribute(feature, "name") == "enrolled-keys")
      enrolled = enabled, known = true;
    if (attribute(feature, "name") == "secure-boot")
      machine.secure_boot = enabled;
  }
  if (known)
    machine.secure_boot = machine.secure_boot && enrolled;
  const std::string variables = lower(attribute(child(&os, "nvram"), "template"));
  const bool keys_in_template =
      variables.find(".ms.") != std::string::npos || variables.find("secboot") != std::string::npos;
  if (!known && parse_bool(attribute(loader, "secure")).value_or(false) && keys_in_template)
    machine.secure_boot = true;
  const XmlElement* nvram = child(&os, "nvram");
  std::string store = text_of(nvram);
  if (const std::string source = attribute(child(nvram, "source"), "file"); !source.empty())
    store = source;
  if (store.empty() || machine.firmware != MachineFirmware::uefi)
    return;
  try {
    machine.nvram = resolve_file(path, store, "the UEFI variable store", options, machine.notes);
  } catch (const Error& error) {
    machine.notes.push_back("UEFI variables are not carried over: " + error.summary());
  }
}

void read_system(const fs::path& path, const XmlElement& domain, const ReadOptions& options, Machine& machine) {
  const XmlElement* os = child(&domain, "os");
  const std::string type = text_of(child(os, "type"));
  if (type == "exe" || type == "uml")
    throw Error("DESCRIPTION_UNSUPPORTED", path.string() + " describes a container, not a machine", "os type " + type);
  const std::string arch = attribute(child(os, "type"), "arch");
  static const std::set<std::string> x86 = {"", "x86_64", "i386", "i486", "i586", "i686"};
  if (!x86.contains(arch))
    throw Error("DESCRIPTION_UNSUPPORTED", path.string() + " describes a machine of another architecture",
                printable(arch, 40), "x86 machines can be converted");
  if (type == "xen" || type == "linux" || child(&domain, "bootloader") != nullptr)
    machine.notes.push_back("the machine is paravirtual (Xen): its boot loader was run by the host");
  if (const std::string kernel = child_text(os, "kernel"); !kernel.empty())
    machine.notes.push_back("the machine boots a kernel of its host (" + printable(kernel, 80) +
                            "): it will boot its own");
  if (os != nullptr)
    read_firmware(path, *os, options, machine);
}

void read_clock(const XmlElement* clock, Machine& machine) {
  const std::string offset = attribute(clock, "offset");
  machine.rtc_localtime = offset == "localtime" || (offset == "variable" && attribute(clock, "basis") == "localtime");
  if (offset == "timezone" || offset == "absolute")
    machine.notes.push_back("clock offset \"" + offset + "\" dropped: UTC is taken");
  if (offset == "variable" && attribute(clock, "adjustment") != "0" && !attribute(clock, "adjustment").empty())
    machine.notes.push_back("clock adjustment of " + printable(attribute(clock, "adjustment"), 20) + " s dropped");
}

void check_state(const fs::path& path, const Machine& machine, const ReadOptions& options) {
  if (machine.name.find('/') != std::string::npos)
    return;
  for (const fs::path& directory : options.saved_state_directories) {
    const fs::path file = directory / (machine.name + ".save");
    std::error_code ignored;
    if (fs::exists(file, ignored))
      throw Error("SOURCE_SUSPENDED", path.string() + ": the machine's memory is saved (managed save)",
                  "there is " + file.string(), "start it, shut it down, then try again");
  }
}

void note_ignored(const XmlElement& domain, Machine& machine) {
  static const std::set<std::string_view> known = {
      "name",          "uuid",      "genid",          "title",      "description",     "metadata",  "memory",
      "currentMemory", "vcpu",      "vcpus",          "os",         "features",        "cpu",       "clock",
      "on_poweroff",   "on_reboot", "on_crash",       "pm",         "devices",         "seclabel",  "resource",
      "cputune",       "iothreads", "on_lockfailure", "bootloader", "bootloader_args", "maxMemory", "idmap",
      "perf"};
  for (const XmlElement* element : all_children(&domain))
    if (!known.contains(local_name(*element)))
      machine.notes.push_back("<" + printable(element->Name(), 40) + "> is ignored");
}

} // namespace

Machine read_libvirt_xml(const fs::path& path, const ReadOptions& options) {
  const auto document = parse_xml(read_file(path, max_description), path.string());
  const XmlElement* domain = document->RootElement();
  if (local_name(*domain) == "domstatus")
    throw Error("SOURCE_RUNNING", path.string() + " is the state of a running machine",
                "state " + printable(attribute(domain, "state"), 40), "shut it down and give its domain XML");
  if (local_name(*domain) != "domain")
    throw Error("DESCRIPTION_INVALID", path.string() + " is not a libvirt domain",
                "its root element is " + printable(domain->Name(), 80));
  Machine machine;
  machine.source_type = "libvirt";
  machine.name = child_text(domain, "name");
  if (machine.name.empty())
    machine.name = path.stem().string();
  machine.uuid = parse_uuid(child_text(domain, "uuid")).value_or("");
  machine.genid = parse_uuid(child_text(domain, "genid")).value_or("");
  machine.description = child_text(domain, "description");
  check_state(path, machine, options);
  machine.memory = checked_memory(memory_of(child(domain, "memory")), path.string());
  machine.cpu = cpu_of(*domain, path.string(), machine.notes);
  read_system(path, *domain, options, machine);
  read_clock(child(domain, "clock"), machine);
  machine.os_hint = attribute(descend(domain, {"metadata", "libosinfo", "os"}), "id");
  read_libvirt_devices(path, *domain, options, machine);
  note_ignored(*domain, machine);
  if (has_attribute(domain, "id"))
    machine.notes.push_back("the machine was running when its description was written");
  name_source_disks(machine);
  return machine;
}

} // namespace kvmport
