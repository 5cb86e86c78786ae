package serve_test

import (
	"testing"
	"time"

	"github.com/spf13/pflag"

	"orlop.dev/kit/auth"
	"orlop.dev/kit/serve"
)

func TestFlagsWinOverTheEnvironmentAndThatOverDefaults(t *testing.T) {
	t.Setenv("ORLOP_ADDRESS", "127.0.0.1:1")
	t.Setenv("ORLOP_STOP_TIMEOUT", "3s")
	o := serve.Defaults()
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	o.Bind(fs)
	if err := fs.Parse([]string{"--address", "127.0.0.1:2"}); err != nil {
		t.Fatal(err)
	}
	if err := serve.ApplyEnvironment(fs, "orlop"); err != nil {
		t.Fatal(err)
	}
	if o.Address != "127.0.0.1:2" || o.StopTimeout != 3*time.Second || o.PrivateAddress != "" {
		t.Fatalf("got %+v", o)
	}
}

func TestAnUnreadableVariableIsNamed(t *testing.T) {
	t.Setenv("ORLOP_STOP_TIMEOUT", "soon")
	o := serve.Defaults()
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	o.Bind(fs)
	if err := serve.ApplyEnvironment(fs, "orlop"); err == nil {
		t.Fatal("accepted")
	}
}

func TestValidateRefuses(t *testing.T) {
	good := serve.Config{Guard: auth.NewGuard(nil, nil), Options: serve.Options{
		Address: "127.0.0.1:0", CertificateFile: "c", KeyFile: "k", StopTimeout: time.Second,
	}}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*serve.Config){
		"no guard":        func(c *serve.Config) { c.Guard = nil },
		"no certificate":  func(c *serve.Config) { c.CertificateFile = "" },
		"no key":          func(c *serve.Config) { c.KeyFile = "" },
		"no port":         func(c *serve.Config) { c.Address = "localhost" },
		"no private port": func(c *serve.Config) { c.PrivateAddress = "localhost" },
		"no time to stop": func(c *serve.Config) { c.StopTimeout = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			spoil(&c)
			if c.Validate() == nil {
				t.Fatal("accepted")
			}
		})
	}
}
