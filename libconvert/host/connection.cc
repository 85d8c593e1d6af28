// SPDX-License-Identifier: Apache-2.0
#include "libconvert/host/connection.h"

#include "base/error.h"
#include "base/late_library.h"
#include "libconvert/machine/text.h"

#include <cstdlib>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

/// A function of libvirt, which only runs with --connect need.
#define LIBVIRT(function) KVMPORT_LATE("libvirt.so.0", function)

namespace kvmport {
namespace {

using Domain = std::unique_ptr<virDomain, decltype(&::virDomainFree)>;

Error failure(const std::string& what, const char* code = "LIBVIRT_FAILED") {
  const char* why = LIBVIRT(virGetLastErrorMessage)();
  return {code, what, why != nullptr ? why : ""};
}

/// A string that libvirt gave, which is ours to free.
std::string taken(char* text, const std::string& what) {
  if (text == nullptr)
    throw failure(what);
  const std::unique_ptr<char, decltype(&std::free)> owner(text, &std::free);
  return text;
}

/// Calls `visit` with each of an array that libvirt gave, and frees what it holds.
template <class Object, class Visit>
void for_each(Object** objects, int count, int (*free_object)(Object*), const std::string& what, Visit visit) {
  if (count < 0)
    throw failure(what);
  const std::unique_ptr<Object*, decltype(&std::free)> owner(objects, &std::free);
  for (int i = 0; i < count; i++) {
    const std::unique_ptr<Object, int (*)(Object*)> object(objects[i], free_object);
    visit(object.get());
  }
}

} // namespace

struct LibvirtConnection::State {
  explicit State(virConnectPtr opened) : connection(opened, LIBVIRT(virConnectClose)) {}
  Domain domain(const std::string& name) const {
    Domain found(LIBVIRT(virDomainLookupByName)(connection.get(), name.c_str()), LIBVIRT(virDomainFree));
    if (!found)
      throw failure("there is no domain " + printable(name, 200) + " on this connection", "DOMAIN_NOT_FOUND");
    return found;
  }
  std::unique_ptr<virConnect, decltype(&::virConnectClose)> connection;
};

LibvirtConnection::LibvirtConnection(const std::string& uri) {
  LIBVIRT(virSetErrorFunc)(nullptr, [](void*, virErrorPtr) {}); // errors are ours to print
  virConnectPtr opened = LIBVIRT(virConnectOpen)(uri.c_str());
  if (opened == nullptr)
    throw failure("can't connect to libvirt at " + printable(uri, 200));
  state_ = std::make_unique<State>(opened);
}

LibvirtConnection::~LibvirtConnection() = default;

std::string LibvirtConnection::shut_off_domain(const std::string& name) const {
  const Domain domain = state_->domain(name);
  int state = 0;
  if (LIBVIRT(virDomainGetState)(domain.get(), &state, nullptr, 0) != 0)
    throw failure("can't ask for the state of " + printable(name, 200));
  if (state != VIR_DOMAIN_SHUTOFF)
    throw Error("SOURCE_RUNNING", "the domain " + printable(name, 200) + " is not shut off", {},
                "shut it down: virsh shutdown " + printable(name, 200));
  if (LIBVIRT(virDomainHasManagedSaveImage)(domain.get(), 0) > 0)
    throw Error("SOURCE_SUSPENDED", "the memory of the domain " + printable(name, 200) + " is saved",
                "its disks are those of a running machine", "start it and shut it down");
  return taken(LIBVIRT(virDomainGetXMLDesc)(domain.get(), VIR_DOMAIN_XML_INACTIVE | VIR_DOMAIN_XML_SECURE),
               "can't read the description of " + printable(name, 200));
}

std::vector<std::string> LibvirtConnection::snapshots(const std::string& name) const {
  const Domain domain = state_->domain(name);
  std::vector<std::string> names;
  virDomainSnapshotPtr* list = nullptr;
  const int count = LIBVIRT(virDomainListAllSnapshots)(domain.get(), &list, 0);
  for_each(list, count, LIBVIRT(virDomainSnapshotFree), "can't list the snapshots of " + printable(name, 200),
           [&](virDomainSnapshotPtr one) { names.emplace_back(LIBVIRT(virDomainSnapshotGetName)(one)); });
  return names;
}

std::vector<std::string> LibvirtConnection::all_domains() const {
  std::vector<std::string> descriptions;
  virDomainPtr* list = nullptr;
  const int count = LIBVIRT(virConnectListAllDomains)(state_->connection.get(), &list, 0);
  for_each(list, count, LIBVIRT(virDomainFree), "can't list the domains", [&](virDomainPtr one) {
    descriptions.push_back(
        taken(LIBVIRT(virDomainGetXMLDesc)(one, VIR_DOMAIN_XML_INACTIVE), "can't read a description"));
  });
  return descriptions;
}

void LibvirtConnection::define(const std::string& xml) const {
  const Domain domain(
      LIBVIRT(virDomainDefineXMLFlags)(state_->connection.get(), xml.c_str(), VIR_DOMAIN_DEFINE_VALIDATE),
      LIBVIRT(virDomainFree));
  if (!domain)
    throw failure("libvirt does not take the clone's description");
}

} // namespace kvmport
