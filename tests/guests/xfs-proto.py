#!/usr/bin/python3
"""Prints the prototype file from which mkfs.xfs -p fills a filesystem (mkfs.xfs(8)) with the tree TREE.

usage: xfs-proto.py TREE

A prototype knows no hard links, sticky bits nor extended attributes: links become files of their own, and the sticky bit of /tmp comes back
at the first boot, when systemd-tmpfiles sets it.
"""
import os
import stat
import sys


def entry(name, path, depth):
    if any(c.isspace() for c in name):
        sys.exit(f"xfs-proto.py: a prototype cannot hold the name {path!r}")
    st = os.lstat(path)
    kinds = {stat.S_IFREG: "-", stat.S_IFDIR: "d", stat.S_IFLNK: "l", stat.S_IFCHR: "c", stat.S_IFBLK: "b", stat.S_IFIFO: "p"}
    setuid = "u" if st.st_mode & stat.S_ISUID else "-"
    setgid = "g" if st.st_mode & stat.S_ISGID else "-"
    line = f"{kinds[stat.S_IFMT(st.st_mode)]}{setuid}{setgid}{st.st_mode & 0o777:03o} {st.st_uid} {st.st_gid}"
    if name:
        line = f"{name} {line}"
    if stat.S_ISREG(st.st_mode):
        line += f" {path}"
    elif stat.S_ISLNK(st.st_mode):
        line += f" {os.readlink(path)}"
    elif stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
        line += f" {os.major(st.st_rdev)} {os.minor(st.st_rdev)}"
    print(" " * depth + line)
    if stat.S_ISDIR(st.st_mode):
        for child in sorted(os.listdir(path)):
            entry(child, os.path.join(path, child), depth + 1)
        print(" " * depth + "$")


print("/proc/none\n0 0")
entry("", sys.argv[1], 0)
