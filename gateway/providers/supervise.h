// SPDX-License-Identifier: Apache-2.0
// `envgate supervise [--mark] [--data BYTES] [--open-files N] -- COMMAND…`: the small process between the gateway and a worker that sees to it that nothing is
// left.
//
// Its standard input is the lifeline: a pipe whose other end only the gateway holds. However the gateway dies, the pipe ends, and the supervisor kills the
// command and everything that descends from it: it is their subreaper, so no double fork and no setsid escapes it. (uv alone would not do: killed,
// it leaves the server that it started running.)
//
//   SIGTERM            is passed on to its process group, once
//   the lifeline ends  SIGKILL to all descendants
//   the command ends   SIGKILL to what it left behind
//
// It ends as the command did, with its exit code or by its signal, and only when no descendant is left. If it is itself killed, the kernel kills the command
// (PR_SET_PDEATHSIG), and the gateway, whose children all others become then, these (child.c).
//
// --data and --open-files are resource limits of the command. With --mark descriptor 3 is the command's to inherit: a pipe to the gateway, by which
// `envgate booting -- COMMAND…` says that it is about to become COMMAND. uv is given that to run, so that one knows when it has installed everything.
#ifndef ENVGATE_PROVIDERS_SUPERVISE_H
#define ENVGATE_PROVIDERS_SUPERVISE_H

enum { MARK_FD = 3 };

// argv is main's. Must be called before any thread is started. Each returns main's exit code.
int supervise_main(int argc, char **argv);
int booting_main(int argc, char **argv);

#endif
