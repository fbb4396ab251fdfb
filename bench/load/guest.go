package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// Where the initramfs keeps what the host put there, and what the guest's root is made of.
const (
	brought = "/bench"
	root    = "/image"
	port    = "bench"
)

// runGuest is PID 1 of a bare machine: the image's kernel, modules and root image, no cell, no view. It puts a FUSE
// server of the guest's own over a directory in its memory, and then obeys by a port of the machine.
func runGuest() error {
	if err := prepareGuest(); err != nil {
		return err
	}
	line, err := openPort()
	if err != nil {
		return err
	}
	if err := raiseNetwork(); err != nil {
		return fmt.Errorf("raising the network: %w", err)
	}
	if err := syscall.Chroot(root); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := serveFuse(); err != nil {
		json.NewEncoder(line).Encode(answer{"error": err.Error()})
		return err
	}
	return obey(line, line)
}

func prepareGuest() error {
	for _, one := range [][2]string{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		os.MkdirAll(one[1], 0o755)
		if err := syscall.Mount(one[0], one[1], one[0], 0, ""); err != nil && !errors.Is(err, syscall.EBUSY) {
			return fmt.Errorf("mounting %s: %w", one[1], err)
		}
	}
	if err := loadModules(); err != nil {
		return err
	}
	for cpu := 1; os.WriteFile(fmt.Sprintf("/sys/devices/system/cpu/cpu%d/online", cpu), []byte("1"), 0) == nil; cpu++ {
	}
	os.MkdirAll(root, 0o755)
	if err := syscall.Mount("/dev/vda", root, "erofs", syscall.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mounting the image: %w", err)
	}
	if err := syscall.Mount("tmpfs", root+"/tmp", "tmpfs", 0, ""); err != nil {
		return err
	}
	for _, dir := range []string{"/dev", "/proc"} {
		if err := syscall.Mount(dir, root+dir, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("binding %s: %w", dir, err)
		}
	}
	return os.CopyFS(root+"/tmp"+brought, os.DirFS(brought))
}

func loadModules() error {
	list, err := os.ReadFile("/modules/order")
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(list)) {
		file, err := os.Open("/modules/" + name)
		if err != nil {
			return err
		}
		none := [1]byte{}
		_, _, number := syscall.Syscall(313, file.Fd(), uintptr(unsafe.Pointer(&none)), 0) // finit_module, x86-64
		file.Close()
		if number != 0 && number != syscall.EEXIST {
			return fmt.Errorf("loading %s: %w", name, number)
		}
	}
	return nil
}

// raiseNetwork takes the address that QEMU's own network expects: 10.0.2.15/24.
func raiseNetwork() error {
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(socket)
	inet := func(a, b, c, d byte) []byte { return []byte{syscall.AF_INET, 0, 0, 0, a, b, c, d} }
	for _, one := range []struct {
		request uintptr
		value   []byte
	}{
		{syscall.SIOCSIFADDR, inet(10, 0, 2, 15)},
		{syscall.SIOCSIFNETMASK, inet(255, 255, 255, 0)},
		{syscall.SIOCSIFFLAGS, []byte{syscall.IFF_UP | syscall.IFF_RUNNING, 0}},
	} {
		var ifreq [40]byte
		copy(ifreq[:16], "eth0")
		copy(ifreq[16:], one.value)
		_, _, number := syscall.Syscall(syscall.SYS_IOCTL, uintptr(socket), one.request, uintptr(unsafe.Pointer(&ifreq)))
		if number != 0 {
			return number
		}
	}
	return nil
}

func openPort() (*os.File, error) {
	for range 500 {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, name := range names {
			if said, _ := os.ReadFile(name); strings.TrimSpace(string(said)) == port {
				return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(name)), os.O_RDWR, 0)
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, errors.New("the machine has no port")
}

// serveFuse mounts libfuse's passthrough_hp over what is in the guest's memory.
func serveFuse() error {
	own := "/tmp" + brought
	os.Mkdir("/tmp/seen", 0o755)
	server := exec.Command(own+"/passthrough_hp", "--foreground", own+"/shown", "/tmp/seen")
	server.Env = []string{"LD_LIBRARY_PATH=" + own + "/lib", "PATH=/usr/bin:/bin"}
	var said bytes.Buffer
	server.Stderr = &said
	if err := server.Start(); err != nil {
		return err
	}
	for range 1000 {
		if mounts, _ := os.ReadFile("/proc/mounts"); bytes.Contains(mounts, []byte(" /tmp/seen fuse")) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("passthrough_hp did not mount: %s", said.String())
}
