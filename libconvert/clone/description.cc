// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/description.h"

#include "libconvert/clone/description_run.h"

namespace kvmport {
namespace {

constexpr const char *general = "General metadata", *booting = "Operating system booting",
                     *sysinfo = "SMBIOS System Information", *disks = "Hard drives, floppy disks, CDROMs",
                     *cards = "Network interfaces", *channels = "Consoles, serial, parallel & channel devices",
                     *displays = "Graphical framebuffers";

// Host devices come first: they are the refusal that a user can do least about. Rules that use what others renewed
// (oem-strings) come after them.
constexpr DescriptionRule rules[] = {
    {"host-device",
     "devices/hostdev, interface of type hostdev or vdpa, tpm backend passthrough, input of type passthrough or evdev",
     "refused, or kept with a warning", "Host device assignment", clone_host_devices},
    {"domain-id", "domain@id", "removed", general, clone_domain_id},
    {"name", "name", "the clone's name", general, clone_name_rule},
    {"uuid", "uuid, hwuuid", "the clone's UUID; put in where there is none", general, clone_uuid},
    {"title", "title", "removed; <description> stays", general, clone_title},
    {"genid", "genid", "a new one; an empty one, for which libvirt makes one, stays", general, clone_genid},
    {"sysinfo", "sysinfo/{system,baseBoard,chassis}/entry uuid, serial, asset",
     "the clone's UUID; new serials and asset tags unless they are to be kept", sysinfo, clone_sysinfo},
    {"disk-source", "devices/disk: @type, @device, source, driver@type, backingStore, mirror, auth of a network disk",
     "the given file; a writable disk without one is refused, a readonly, removable or transient one stays", disks,
     clone_disk_sources},
    {"disk-serial", "devices/disk/serial, devices/controller/serial (NVMe)", "a new one", disks, clone_disk_serials},
    {"disk-wwn", "devices/disk/wwn", "a new one of the same vendor", disks, clone_disk_wwns},
    {"iscsi-initiator", "initiator/iqn@name of disks and host devices", "the clone's name is added, with a warning",
     disks, clone_iscsi},
    {"oem-strings", "sysinfo/oemStrings/entry, sysinfo[@type='fwcfg']/entry",
     "UUIDs and serials of the source are exchanged; other text is kept with a warning", sysinfo, clone_oem_strings},
    {"memory-device", "devices/memory: uuid, source/path", "a new UUID; the given file, refused without one",
     "Memory devices", clone_memory_devices},
    {"filesystem", "devices/filesystem/source: dir, file, dev, socket",
     "the given path; else a writable directory is kept with a warning and a writable image refused; a new socket",
     "Filesystems", clone_filesystems},
    {"mac", "devices/interface/mac@address", "the given one, or a new one that no known machine has", cards,
     clone_macs},
    {"net-device", "devices/interface/target@dev", "a new name; removed where libvirt named it", cards,
     clone_net_devices},
    {"virtual-port", "devices/interface/virtualport/parameters: interfaceid, instanceid, profileid",
     "a new UUID; a profile's name is kept with a warning", cards, clone_virtual_ports},
    {"net-source",
     "devices/interface: source (vhostuser, udp, server, portid, direct in passthrough mode, vds), "
     "backend@logFile",
     "a new socket, port or log; what has no rule is kept with a warning", cards, clone_net_sources},
    {"net-address", "devices/interface: portForward, ip, route, filterref/parameter", "kept with a warning", cards,
     clone_net_addresses},
    {"vsock", "devices/vsock/cid@address", "the next free one; removed where libvirt chose it", "Vsock", clone_vsock},
    {"channel",
     "devices/{serial,parallel,console,channel,smartcard,redirdev}, rng backend egd: source path and service, tty",
     "a new file, socket or port; a terminal or a socket that libvirt named is removed; addresses that both connect to "
     "and devices of the host are kept with a warning",
     channels, clone_channels},
    {"log", "log@file, devices/audio[@type='file']@path", "a new file", channels, clone_logs},
    {"graphics", "devices/graphics: port, tlsPort, websocket, socket; listen@socket",
     "a free port, chosen by libvirt at each start; a new socket", displays, clone_graphics},
    {"graphics-password", "devices/graphics@passwd", "kept with a warning", displays, clone_graphics_password},
    {"nvram", "os/nvram, os/varstore@path",
     "a new file, into which the caller copies the source's; template and loader stay", booting, clone_nvram},
    {"tpm", "devices/tpm/backend: the state of an emulator, source@path",
     "the caller copies the state; a new path where the description has one", "TPM device", clone_tpm},
    {"shmem", "devices/shmem: @name, server@path", "a new name and socket, with a warning", "Shared memory device",
     clone_shmem},
    {"pstore", "devices/pstore/path", "a new file", "Pstore", clone_pstore},
    {"metadata", "children of metadata by which OpenStack, oVirt, KubeVirt, OpenNebula or CloudStack know an instance",
     "removed; all others stay", general, clone_metadata},
    {"seclabel", "seclabel: label, imagelabel", "removed where libvirt chose them; static ones are kept with a warning",
     "Security label", clone_seclabel},
    {"pinning", "vcpu@cpuset, cputune/{vcpupin,emulatorpin,iothreadpin}, numatune/{memory,memnode}@nodeset",
     "kept with a warning", "CPU Tuning", clone_pinning},
    {"secret", "secret of disks, encryption@secret of a TPM", "kept with a warning", disks, clone_secrets},
    {"lease", "devices/lease", "kept with a warning", "Device leases", clone_leases},
    {"host-identity", "resource/fibrechannel, launchSecurity, os/smbios of mode host, smartcard of the host",
     "kept with a warning", booting, clone_host_identity},
    {"command-line", "qemu:commandline, qemu:override and those of other hypervisors", "kept, a warning a line",
     "Hypervisor-specific command line", clone_command_line},
};

} // namespace

std::span<const DescriptionRule> description_rules() {
  return rules;
}

DescriptionResult clone_description(const std::string& xml, const std::string& source,
                                    const DescriptionRequest& request, TakenIdentities& taken) {
  TakenIdentities claimed = taken;
  DescriptionResult result = DescriptionRun(xml, source, request, claimed).run();
  taken = std::move(claimed);
  return result;
}

} // namespace kvmport
