// SPDX-License-Identifier: Apache-2.0
// Rules for what ties a machine to its host: firmware variables, TPM, passed-through devices, shared memory, pinning,
// secrets, and lines that go to QEMU unseen. formatdomain.html: "Operating system booting", "TPM device", "Host device
// assignment", "Shared memory device", "CPU Tuning".
#include "libconvert/clone/description_run.h"

#include "base/error.h"
#include "libconvert/machine/text.h"

#include <filesystem>

namespace kvmport {
namespace {

std::string beside(const std::string& path) {
  return std::filesystem::path(path).parent_path().string();
}

std::string new_nvram(DescriptionRun& run, const std::string& old) {
  const std::string& wanted = run.request().nvram_path;
  std::string path = wanted;
  if (wanted.empty())
    path = run.renewed_path(old, beside(old));
  else if (!run.taken().claim(Identity::path, wanted))
    throw Error("PATH_IN_USE", printable(wanted, 240) + " belongs to another machine or disk",
                "it was to be the clone's firmware variables", "choose another file");
  run.remember(Identity::path, old, path);
  run.result().nvram = CopyFile{old, path};
  return path;
}

void clone_variables(DescriptionRun& run, const XmlNode& nvram) {
  const std::string reason = "the firmware writes it: boot entries, keys";
  if (const XmlNode* source = nvram.child("source")) {
    const char* name = source->find("dev") != nullptr ? "dev" : "file";
    if (source->find(name) == nullptr)
      throw Error("DESCRIPTION_UNSUPPORTED", "the firmware's variables are in no local file", run.where(*source),
                  "copy them to a file and name that in the description");
    run.set_attribute(*source, name, new_nvram(run, source->attribute(name)), reason);
    return;
  }
  const std::string old(trimmed(nvram.text));
  if (old.empty())
    run.warn(nvram, "the file of the firmware's variables is not named: the clone starts with new ones");
  else
    run.set_text(nvram, new_nvram(run, old), reason);
}

void clone_tpm_backend(DescriptionRun& run, const XmlNode& backend) {
  const std::string type = backend.attribute("type");
  const XmlNode* source = backend.child("source");
  if (type == "external" && source != nullptr && source->find("path") != nullptr) {
    const std::string path = run.renewed_path(source->attribute("path"));
    check_socket_path(path);
    run.set_attribute(*source, "path", path, "a TPM serves one machine");
    run.warn(*source, "a TPM must be started for the clone at " + printable(path, 240));
  }
  if (type != "emulator")
    return;
  TpmState state{run.source_uuid(), run.result().uuid, "", ""};
  if (source != nullptr && source->find("path") != nullptr) {
    state.from_path = source->attribute("path");
    state.to_path = run.renewed_path(state.from_path, beside(state.from_path));
    run.set_attribute(*source, "path", state.to_path, "a TPM serves one machine");
  }
  run.result().tpm = state;
}

/// Everything that gives the guest a device of the host that one machine at a time can have.
std::vector<const XmlNode*> host_devices(const DescriptionRun& run) {
  std::vector<const XmlNode*> found = run.select({"devices", "hostdev"});
  for (const XmlNode* card : run.select({"devices", "interface"}))
    if (const std::string type = card->attribute("type"); type == "hostdev" || type == "vdpa")
      found.push_back(card);
  for (const XmlNode* backend : run.select({"devices", "tpm", "backend"}))
    if (backend->attribute("type") == "passthrough")
      found.push_back(backend->parent);
  for (const XmlNode* input : run.select({"devices", "input"}))
    if (const std::string type = input->attribute("type"); type == "passthrough" || type == "evdev")
      found.push_back(input);
  return found;
}

} // namespace

void clone_nvram(DescriptionRun& run) {
  for (const XmlNode* os : run.select({"os"})) {
    const XmlNode *nvram = os->child("nvram"), *store = os->child("varstore"), *loader = os->child("loader");
    if (nvram != nullptr)
      clone_variables(run, *nvram);
    if (store != nullptr && store->find("path") != nullptr)
      run.set_attribute(*store, "path", new_nvram(run, store->attribute("path")),
                        "the firmware writes it: boot entries, keys");
    const bool uefi =
        os->attribute("firmware") == "efi" || (loader != nullptr && loader->attribute("type") == "pflash");
    const bool stateless = loader != nullptr && loader->attribute("stateless") == "yes";
    if (uefi && !stateless && nvram == nullptr && store == nullptr)
      run.warn(*os, "the file of the firmware's variables is not named: the clone starts with new ones");
  }
}

void clone_tpm(DescriptionRun& run) {
  for (const XmlNode* backend : run.select({"devices", "tpm", "backend"}))
    clone_tpm_backend(run, *backend);
}

void clone_host_devices(DescriptionRun& run) {
  const auto devices = host_devices(run);
  if (!devices.empty() && !run.request().keep_hostdev)
    throw Error("HOSTDEV_PRESENT",
                "the machine has " + (devices.size() == 1 ? "a device" : std::to_string(devices.size()) + " devices") +
                    " of its host, which one machine at a time can have",
                run.where(*devices.front()),
                "remove it from the source's description, or keep it (--keep-hostdev) and never run both at once");
  for (const XmlNode* device : devices)
    run.warn(*device, "this device of the host is kept: source and clone can't run at once");
}

void clone_shmem(DescriptionRun& run) {
  for (const XmlNode* shmem : run.select({"devices", "shmem"})) {
    if (const std::string name = shmem->attribute("name"); !name.empty()) {
      run.set_attribute(*shmem, "name", new_by_number(run.taken(), Identity::shmem, run.renamed(name)),
                        "machines with one name share this memory");
      run.warn(*shmem, "the clone's memory is shared with none of the source's peers");
    }
    for (const XmlNode* server : shmem->all("server"))
      if (const std::string old = server->attribute("path"); !old.empty()) {
        const std::string path = run.renewed_path(old);
        check_socket_path(path);
        run.set_attribute(*server, "path", path, "machines of one server share this memory");
        run.warn(*server, "an ivshmem-server must be started for the clone at " + printable(path, 240));
      }
  }
}

void clone_pstore(DescriptionRun& run) {
  for (const XmlNode* path : run.select({"devices", "pstore", "path"}))
    if (const std::string old(trimmed(path->text)); !old.empty())
      run.set_text(*path, run.renewed_path(old, beside(old)), "the guest keeps its crash records in it");
}

void clone_pinning(DescriptionRun& run) {
  const char* message = "both machines run on these processors or in this memory of the host";
  for (const XmlNode* vcpu : run.select({"vcpu"}))
    if (vcpu->find("cpuset") != nullptr)
      run.warn(*vcpu, message);
  for (const char* name : {"vcpupin", "emulatorpin", "iothreadpin"})
    for (const XmlNode* pin : run.select({"cputune", name}))
      run.warn(*pin, message);
  for (const char* name : {"memory", "memnode"})
    for (const XmlNode* memory : run.select({"numatune", name}))
      if (memory->find("nodeset") != nullptr)
        run.warn(*memory, message);
}

void clone_secrets(DescriptionRun& run) {
  for (const XmlNode* devices : run.select({"devices"})) {
    for (const XmlNode* secret : run.anywhere(*devices, "secret"))
      run.warn(*secret, "the clone uses the same secret of the host");
    for (const XmlNode* encryption : run.anywhere(*devices, "encryption"))
      if (encryption->find("secret") != nullptr) // of a TPM's state
        run.warn(*encryption, "the clone uses the same secret of the host");
  }
}

void clone_leases(DescriptionRun& run) {
  for (const XmlNode* lease : run.select({"devices", "lease"}))
    run.warn(*lease, "one machine at a time can hold the lease: source and clone can't run at once");
}

void clone_host_identity(DescriptionRun& run) {
  for (const XmlNode* channel : run.select({"resource", "fibrechannel"}))
    run.warn(*channel, "the Fibre Channel fabric knows both machines by one identifier");
  for (const XmlNode* security : run.select({"launchSecurity"}))
    run.warn(*security, "certificates and session data of an encrypted start are made for one machine");
  for (const XmlNode* smbios : run.select({"os", "smbios"}))
    if (smbios->attribute("mode") == "host")
      run.warn(*smbios, "every machine with this setting shows the guest the serials of the host");
  for (const XmlNode* card : run.select({"devices", "smartcard"}))
    if (const std::string mode = card->attribute("mode"); mode == "host" || mode == "host-certificates")
      run.warn(*card, "both guests see the same smart card of the host");
}

void clone_command_line(DescriptionRun& run) {
  for (const auto& node : run.domain().children) {
    const bool prefixed = node->name.find(':') != std::string::npos;
    if (!prefixed || (node->local_name() != "commandline" && node->local_name() != "override"))
      continue;
    for (const char* leaf : {"arg", "env", "property"})
      for (const XmlNode* line : run.anywhere(*node, node->name.substr(0, node->name.find(':') + 1) + leaf))
        run.warn(*line, "this goes to the hypervisor as it is: look whether it names a file, socket, port or address");
  }
}

} // namespace kvmport
