package serve

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// ErrSettings says that a file of settings can't be used.
var ErrSettings = errors.New("settings")

// settingKey is the annotation of a flag with its other name.
const settingKey = "orlop.dev/setting"

// NameSetting gives a flag another name in files of settings, one with dots for
// the keys that lead to it: virtualDisks.defaultStorageClassName.
func NameSetting(fs *pflag.FlagSet, flag, key string) {
	if err := fs.SetAnnotation(flag, settingKey, []string{key}); err != nil {
		panic(err) // the flag isn't there
	}
}

// ApplySettings sets each flag that neither the command line nor the environment
// did from a YAML file. A key is a flag's name in camel case
// (virtualMachineCIDRs for virtual-machine-cidrs), or the name that NameSetting
// gave it. Call it after ApplyEnvironment.
//
// Keys that no flag has are returned: the file may be other processes' too. All
// values that can't be are told at once, in an error that is ErrSettings.
func ApplySettings(fs *pflag.FlagSet, path string) (unknown []string, err error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSettings, err)
	}
	var document map[string]any
	if err := yaml.UnmarshalStrict(content, &document); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrSettings, path, err)
	}
	given := map[string]any{}
	flatten("", document, given)
	flags := settings(fs)
	var failed []error
	for _, key := range slices.Sorted(maps.Keys(given)) {
		flag := flags[plain(key)]
		if flag == nil {
			unknown = append(unknown, key)
			continue
		}
		if err := applySetting(fs, flag, given[key]); err != nil {
			failed = append(failed, fmt.Errorf("%w: %s: %s %w", ErrSettings, path, key, err))
		}
	}
	return unknown, errors.Join(failed...)
}

// settings are the flags by what they may be called in a file.
func settings(fs *pflag.FlagSet) map[string]*pflag.Flag {
	flags := map[string]*pflag.Flag{}
	fs.VisitAll(func(f *pflag.Flag) {
		for _, name := range append(f.Annotations[settingKey], f.Name) {
			flags[plain(name)] = f
		}
	})
	return flags
}

// plain is what the ways to write a name have in common.
func plain(name string) string { return strings.ToLower(strings.ReplaceAll(name, "-", "")) }

// flatten names each value that isn't a map by the keys that lead to it.
func flatten(prefix string, from, to map[string]any) {
	for key, value := range from {
		if inner, nested := value.(map[string]any); nested {
			flatten(prefix+key+".", inner, to)
			continue
		}
		to[prefix+key] = value
	}
}

func applySetting(fs *pflag.FlagSet, flag *pflag.Flag, value any) error {
	if flag.Changed {
		return nil
	}
	items, isList := value.([]any)
	list, takesList := flag.Value.(pflag.SliceValue)
	switch {
	case isList && !takesList:
		return errors.New("is one value, and no list")
	case value == nil:
		return errors.New("has no value")
	case !takesList:
		return fs.Set(flag.Name, fmt.Sprint(value))
	case !isList:
		return errors.New("is a list")
	}
	texts := make([]string, len(items))
	for i, item := range items {
		texts[i] = fmt.Sprint(item)
	}
	if err := list.Replace(texts); err != nil {
		return err
	}
	flag.Changed = true
	return nil
}
