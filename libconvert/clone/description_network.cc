// SPDX-License-Identifier: Apache-2.0
// Rules for a clone's place in networks: MAC addresses, host devices, ports of virtual switches, sockets, vsock.
// formatdomain.html: "Network interfaces", "Vsock".
#include "libconvert/clone/description_run.h"

#include "base/error.h"
#include "libconvert/machine/text.h"

#include <array>

namespace kvmport {
namespace {

std::string next_mac(DescriptionRun& run, std::size_t card) {
  const DescriptionRequest& request = run.request();
  if (card >= request.macs.size())
    return new_mac(run.taken(), request.mac_seed, request.name, card);
  const auto mac = parse_mac(request.macs[card]);
  if (!mac)
    throw Error("MAC_INVALID", "\"" + printable(request.macs[card], 40) + "\" is not the address of a network card",
                "six octets, neither all zero nor multicast", "such as 52:54:00:12:34:56");
  if (!run.taken().claim(Identity::mac, *mac))
    throw Error("MAC_IN_USE", "MAC address " + *mac + " belongs to another machine or card", "",
                "leave it out for a new one");
  return *mac;
}

/// Names that libvirt gives to devices it makes, and ignores in a description.
bool made_by_libvirt(const std::string& device) {
  static constexpr std::array<std::string_view, 4> prefixes = {"vnet", "vif", "macvtap", "macvlan"};
  for (std::string_view prefix : prefixes)
    if (device.rfind(prefix, 0) == 0)
      return true;
  return false;
}

void renew_port_attribute(DescriptionRun& run, const XmlNode& node, const char* name) {
  if (node.find(name) == nullptr)
    return;
  if (const auto port = run.renewed_port(node.attribute(name)))
    run.set_attribute(node, name, *port, "one process listens at a port");
}

} // namespace

void clone_macs(DescriptionRun& run) {
  const auto cards = run.select({"devices", "interface"});
  if (run.request().macs.size() > cards.size())
    throw Error("MAC_INVALID", "more MAC addresses are given than the machine has network cards",
                std::to_string(run.request().macs.size()) + " for " + std::to_string(cards.size()));
  const std::string reason = "switches and DHCP servers tell machines apart by it";
  for (std::size_t i = 0; i < cards.size(); i++) {
    const std::string mac = next_mac(run, i);
    const XmlNode* node = cards[i]->child("mac");
    if (node == nullptr) {
      run.insert_child(*cards[i], "<mac address='" + mac + "'/>", "mac@address", mac, reason);
      continue;
    }
    if (const auto old = parse_mac(node->attribute("address")))
      run.remember(Identity::mac, *old, mac);
    run.set_attribute(*node, "address", mac, reason);
  }
}

void clone_net_devices(DescriptionRun& run) {
  for (const XmlNode* target : run.select({"devices", "interface", "target"})) {
    const std::string device = target->attribute("dev");
    if (device.empty())
      continue;
    if (made_by_libvirt(device)) {
      run.remove(*target, "libvirt named it for the running source");
      continue;
    }
    const std::string name = run.renewed_net_device(device);
    run.set_attribute(*target, "dev", name, "names of network devices are unique on a host");
    if (target->attribute("managed") == "no")
      run.warn(*target, "network device " + name + " must be made on the host: libvirt doesn't make it");
  }
}

void clone_virtual_ports(DescriptionRun& run) {
  for (const XmlNode* node : run.select({"devices", "interface", "virtualport", "parameters"})) {
    for (const char* name : {"interfaceid", "instanceid"})
      if (node->find(name) != nullptr)
        run.set_attribute(*node, name, run.renewed_uuid(node->attribute(name)), "a switch knows the port by it");
    // A profile is looked up by its name; as a UUID it is one port's.
    const std::string profile = node->attribute("profileid");
    if (parse_uuid(profile))
      run.set_attribute(*node, "profileid", run.renewed_uuid(profile), "a switch knows the port by it");
    else if (!profile.empty())
      run.warn(*node, "the clone's card uses the same port profile of the switch");
  }
}

void clone_net_sources(DescriptionRun& run) {
  for (const XmlNode* card : run.select({"devices", "interface"})) {
    const std::string type = card->attribute("type");
    for (const XmlNode* backend : card->all("backend"))
      if (const std::string log = backend->attribute("logFile"); !log.empty())
        run.set_attribute(*backend, "logFile", run.renewed_path(log), "two processes would write one log");
    for (const XmlNode* source : card->all("source")) {
      run.remove_attribute(*source, "portid", "libvirt made this port for the running source");
      if (type == "vhostuser" && source->find("path") != nullptr) {
        const std::string path = run.renewed_path(source->attribute("path"));
        check_socket_path(path);
        run.set_attribute(*source, "path", path, "a socket serves one network card");
        if (source->attribute("mode") == "client")
          run.warn(*source, "the switch must listen for the clone at " + printable(path, 240));
      } else if (type == "server") {
        renew_port_attribute(run, *source, "port");
      } else if (type == "udp") {
        for (const XmlNode* local : source->all("local"))
          renew_port_attribute(run, *local, "port");
        run.warn(*source, "the other end must know the clone's port");
      } else if (type == "direct" && source->attribute("mode") == "passthrough") {
        run.warn(*source, "one machine at a time can have this device of the host");
      } else if (type == "vds") {
        run.warn(*source, "the port of the distributed switch is the source's");
      }
    }
  }
}

void clone_net_addresses(DescriptionRun& run) {
  for (const XmlNode* card : run.select({"devices", "interface"})) {
    for (const XmlNode* forward : card->all("portForward"))
      for (const XmlNode* range : forward->all("range"))
        run.warn(*range, "this port of the host leads to the source; one machine can have it");
    for (const char* name : {"ip", "route"})
      for (const XmlNode* node : card->all(name))
        run.warn(*node, "the clone gets the same fixed address or route");
    for (const XmlNode* filter : card->all("filterref"))
      for (const XmlNode* parameter : filter->all("parameter"))
        run.warn(*parameter, "the filter may let only the source's address through");
  }
}

void clone_vsock(DescriptionRun& run) {
  for (const XmlNode* cid : run.select({"devices", "vsock", "cid"})) {
    if (cid->attribute("auto") == "yes") {
      run.remove_attribute(*cid, "address", "libvirt chose it for the running source");
      continue;
    }
    const auto old = parse_number(cid->attribute("address"));
    if (old && *old <= UINT32_MAX)
      run.set_attribute(*cid, "address", std::to_string(new_vsock_cid(run.taken(), static_cast<std::uint32_t>(*old))),
                        "context ids are unique on a host");
  }
}

} // namespace kvmport
