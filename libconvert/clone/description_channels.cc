// SPDX-License-Identifier: Apache-2.0
// Rules for character devices (serial ports, consoles, channels, …), logs and displays: files, sockets and ports on the
// host. formatdomain.html: "Consoles, serial, parallel & channel devices", "Graphical framebuffers".
#include "libconvert/clone/description_run.h"

#include "libconvert/machine/text.h"

namespace kvmport {
namespace {

/// Sockets that libvirt names itself when the description has none lie in directories of its own:
/// /var/lib/libvirt/qemu/domain-7-web/, /run/libvirt/qemu/channel/7-web/, …
bool named_by_libvirt(const std::string& path) {
  return path.find("/libvirt/qemu/") != std::string::npos;
}

void renew_socket(DescriptionRun& run, const XmlNode& source, const char* attribute, bool connects) {
  const std::string path = run.renewed_path(source.attribute(attribute));
  check_socket_path(path);
  run.set_attribute(source, attribute, path, "a socket serves one machine");
  if (connects)
    run.warn(source, "a program of the host must listen for the clone at " + printable(path, 240));
}

void clone_unix(DescriptionRun& run, const XmlNode& device, const XmlNode& source, bool connects) {
  if (source.attribute("path").empty())
    return;
  if (device.name == "channel" && !connects && named_by_libvirt(source.attribute("path")))
    run.remove(source, "libvirt names a new one");
  else
    renew_socket(run, source, "path", connects);
}

void clone_service(DescriptionRun& run, const XmlNode& source, bool connects) {
  if (source.find("service") == nullptr)
    return;
  if (connects)
    return run.warn(source, "both machines connect to this address");
  if (const auto port = run.renewed_port(source.attribute("service")))
    run.set_attribute(source, "service", *port, "one process listens at a port");
  else
    run.warn(source, "both machines would listen at this port");
}

void clone_channel_source(DescriptionRun& run, const XmlNode& device, const XmlNode& source, const std::string& type) {
  const bool connects = source.attribute("mode") == "connect";
  const bool has_path = !source.attribute("path").empty();
  if (type == "pty") {
    run.remove_attribute(source, "path", "the terminal of the running source");
  } else if ((type == "file" || type == "pipe") && has_path) {
    run.set_attribute(source, "path", run.renewed_path(source.attribute("path")), "two machines would write one file");
    if (type == "pipe")
      run.warn(source, "the pipe must be made for the clone");
  } else if (type == "unix") {
    clone_unix(run, device, source, connects);
  } else if (type == "tcp" || type == "udp") {
    clone_service(run, source, connects);
  } else if (type == "dev" || type == "nmdm") {
    run.warn(source, "one machine at a time can have this device of the host");
  }
}

/// `typed` has the type of its sources: the device, or a backend inside it.
void clone_channel(DescriptionRun& run, const XmlNode& device, const XmlNode& typed) {
  const std::string type = typed.attribute("type");
  run.remove_attribute(typed, "tty", "the terminal of the running source");
  for (const XmlNode* source : typed.all("source"))
    clone_channel_source(run, device, *source, type);
}

void clone_listener(DescriptionRun& run, const XmlNode& node) {
  const std::string socket = node.attribute("socket");
  if (socket.empty())
    return;
  if (node.name == "listen" && named_by_libvirt(socket))
    run.remove_attribute(node, "socket", "libvirt names a new one");
  else
    renew_socket(run, node, "socket", false);
}

} // namespace

void clone_channels(DescriptionRun& run) {
  for (const char* name : {"serial", "parallel", "console", "channel", "smartcard", "redirdev"})
    for (const XmlNode* device : run.select({"devices", name}))
      clone_channel(run, *device, *device);
  for (const XmlNode* backend : run.select({"devices", "rng", "backend"}))
    if (backend->attribute("model") == "egd")
      clone_channel(run, *backend->parent, *backend);
}

void clone_logs(DescriptionRun& run) {
  for (const XmlNode* devices : run.select({"devices"}))
    for (const XmlNode* log : run.anywhere(*devices, "log"))
      if (const std::string file = log->attribute("file"); !file.empty())
        run.set_attribute(*log, "file", run.renewed_path(file), "two machines would write one log");
  for (const XmlNode* audio : run.select({"devices", "audio"}))
    if (const std::string path = audio->attribute("path"); audio->attribute("type") == "file" && !path.empty())
      run.set_attribute(*audio, "path", run.renewed_path(path), "two machines would write one file");
}

void clone_graphics(DescriptionRun& run) {
  const std::string reason = "one process listens at a port: libvirt chooses a free one";
  for (const XmlNode* graphics : run.select({"devices", "graphics"})) {
    bool fixed = false;
    for (const char* name : {"port", "tlsPort", "websocket"})
      if (const std::string port = graphics->attribute(name); !port.empty() && port != "-1") {
        run.set_attribute(*graphics, name, "-1", reason);
        fixed = fixed || std::string_view(name) != "websocket"; // that one has no switch of its own
      }
    if (fixed)
      run.set_attribute(*graphics, "autoport", "yes", reason);
    clone_listener(run, *graphics);
    for (const XmlNode* listen : graphics->all("listen"))
      clone_listener(run, *listen);
    if (graphics->attribute("type") == "dbus" && graphics->find("address") != nullptr)
      run.warn(*graphics, "both machines show themselves at this D-Bus address");
  }
}

void clone_graphics_password(DescriptionRun& run) {
  for (const XmlNode* graphics : run.select({"devices", "graphics"}))
    if (graphics->find("passwd") != nullptr)
      run.warn(*graphics, "the clone's display has the same password");
}

} // namespace kvmport
